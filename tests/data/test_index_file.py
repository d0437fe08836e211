"""Index files: content, damage, and a cache that cannot be written."""

from pathlib import Path

import numpy as np
import pytest

from gcnet.data.index_file import index_path, map_index, save_index

ARRAYS = {
    "text": np.arange(7, dtype=np.uint8),
    "ends": np.array([3, 7], dtype=np.uint32),
    "boxes": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
    "nothing": np.zeros((0, 2), dtype=np.int64),
}


def test_arrays_and_details_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    assert save_index(path, ARRAYS, {"folders": ["caf\u00e9", "\udcff", "a\nb"]})
    index = map_index(path)
    assert index is not None
    assert index.details == {"folders": ["caf\u00e9", "\udcff", "a\nb"]}
    assert index.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert index.arrays[name].dtype == array.dtype
        assert np.array_equal(index.arrays[name], array)
        assert not index.arrays[name].flags.writeable


def test_every_truncation_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_index(path, ARRAYS, {"links": 0})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert map_index(path) is None, length
    for place in [data.index(b"links"), *range(8 + int.from_bytes(data[:8], "little"), len(data))]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert map_index(path) is None, place


def test_a_missing_file_and_one_of_another_format_are_no_index(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 100)
    assert map_index(tmp_path / "a") is None
    assert map_index(tmp_path / "b") is None
    assert map_index(tmp_path) is None


def test_a_cache_that_cannot_be_written_is_reported_by_the_result(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not save_index(tmp_path / "file" / "a.safetensors", ARRAYS, {})


def test_a_folder_has_one_path_through_links_and_another_for_another_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "link").symlink_to(tmp_path / "data")
    path = index_path(tmp_path / "data", "images-1")
    assert path == index_path(tmp_path / "link", "images-1")
    assert path.parent.parent == tmp_path / "cache"
    assert path != index_path(tmp_path / "data", "images-2")
    assert path != index_path(tmp_path / "other", "images-1")
