"""Trains the recipes of a JSON file, one after the other, with batch-norm statistics that stay as they are.

Run by test_methods.py on two ranks. Running statistics see other batches there than in one process, so whatever an
eval-mode teacher makes of them would differ too; all else must be equal.
"""

import json
import sys
from pathlib import Path

from torch import nn

from semseg_app.training import loop
from semseg_app.training.recipe import Recipe


def train_all(recipes: list[dict]) -> None:
    initial_network = loop.initial_network

    def frozen_network(*arguments):
        network, weights = initial_network(*arguments)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        return network, weights

    loop.initial_network = frozen_network
    try:
        for recipe in recipes:
            loop.train(Recipe.model_validate(recipe), say=lambda line: None)
    finally:
        loop.initial_network = initial_network


if __name__ == "__main__":
    train_all(json.loads(Path(sys.argv[1]).read_text()))
