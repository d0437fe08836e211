"""Seeds of samples, and preservation of the global random state."""

import random
import struct
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def mix_seed(*numbers: int) -> int:
    """Return a 63-bit seed that depends on all `numbers`, signed 64-bit integers such as (seed, epoch, index)."""
    digest = blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything_for_sample(seed: int) -> None:
    """Seed the global CPU generators of Python, NumPy and PyTorch with `seed`."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_random_state() -> Generator[None, None, None]:
    """Restore the global generators of Python, NumPy and PyTorch on exit."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
