"""Randomness as a function: every draw follows from (seed, what for, counters), so there is no state to save.

A run that stops at step k and resumes draws the same numbers as one that never stopped, with any number of workers.
"""

import zlib

import numpy as np
import torch


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed of its own for every (seed, purpose, counters)."""
    entropy = (seed, zlib.crc32(purpose.encode()), *counters)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU generator for one sample or one step."""
    return torch.Generator().manual_seed(derive(seed, purpose, *counters))


def permutation(seed: int, purpose: str, length: int, epoch: int) -> np.ndarray:
    """The order of an epoch: int64 [length]."""
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, epoch))).permutation(length)
