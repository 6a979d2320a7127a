"""Engines: uint8 images in, uint8 class maps out. base.py has the contract, open.py picks one, each has a file."""

from semseg_app.inference.engines.base import Engine as Engine
from semseg_app.inference.engines.base import Prediction as Prediction
from semseg_app.inference.engines.open import open_engine as open_engine
