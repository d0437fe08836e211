"""Index files with a valid checksum whose content contradicts itself, as another program could write them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gcnet.data.index_file import map_index, save_index


def changed_indexes(path: Path) -> Iterator[str]:
    """Replace the index file `path` in turn by ones with missing, empty and huge values; yields what was changed."""
    index = map_index(path)
    assert index is not None
    arrays, details = {name: np.array(array) for name, array in index.arrays.items()}, dict(index.details)
    for name in arrays:
        for kind, other in _changed_arrays(arrays[name]).items():
            assert save_index(path, {**arrays, name: other}, details)
            yield f"{name} {kind}"
        assert save_index(path, {other: array for other, array in arrays.items() if other != name}, details)
        yield f"{name} missing"
    for name in details:
        for value in (None, "x", [None], {"x": None}, -1.5):
            assert save_index(path, arrays, {**details, name: value})
            yield f"{name} {value}"
        assert save_index(path, arrays, {other: value for other, value in details.items() if other != name})
        yield f"{name} missing"


def _changed_arrays(array: np.ndarray) -> dict[str, np.ndarray]:
    changed = {"empty": array[:0], "of another shape": array.reshape(1, *array.shape), "float64": array.astype(float)}
    for place in (0, -1) if array.dtype != np.uint8 else ():  # other bytes of text are other text
        for value in {np.iinfo(array.dtype).max, np.iinfo(array.dtype).min} - {0}:
            other = array.copy()
            other.reshape(-1)[place] = value
            changed[f"{value} at {place}"] = other
    return changed
