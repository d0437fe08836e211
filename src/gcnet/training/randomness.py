"""The global random states of torch, CUDA, numpy and python: seeded, taken, given back."""

import random
from typing import Any

import numpy as np
import torch

from gcnet.data.seeding import mix_seed


def seed_everything(*numbers: int) -> None:
    """Seed all global generators, those of GPUs too, from a few numbers such as (seed, rank)."""
    seed = mix_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """The states of all global generators, of GPUs that of this process' own, as tensors and plain values."""
    version, words, gaussian = random.getstate()
    algorithm, keys, position, has_gaussian, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "numpy": [
            algorithm,
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gaussian),
            float(cached),
        ],
        "python": [version, torch.tensor(words), gaussian],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set all global generators to what `random_states` returned; that of a GPU only where this process uses one."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"][0].cpu())
    algorithm, keys, position, has_gaussian, cached = states["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gaussian, cached))
    version, words, gaussian = states["python"]
    random.setstate((version, tuple(words.tolist()), gaussian))
