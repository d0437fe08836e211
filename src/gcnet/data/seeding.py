"""Per-sample seeds; the program's own random states are preserved."""

import random
import struct
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def mix_seed(*numbers: int) -> int:
    """One well-mixed seed of 63 bits from whole numbers of up to 64 bits with sign, such as (seed, epoch, index)."""
    digest = blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything_for_sample(seed: int) -> None:
    """Seed python's, numpy's and torch's global generators (the CPU's only: a GPU's belongs to the network)."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_random_state() -> Generator[None, None, None]:
    """Give python's, numpy's and torch's global generators back as they were, whatever happens inside."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
