import hashlib
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from gcnet.data.images.built_in import CifarImages
from gcnet.data.images.open import open_data
from gcnet.data.images.sources import ImageSource
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError

CLASSES = [f"class {number}" for number in range(7)]


def write_archive(root: Path, kind: type[CIFAR10], key: str, patch: pytest.MonkeyPatch) -> np.ndarray:
    """A CIFAR folder of 11 training and 5 test images, with torchvision's checksums set to those of the files."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(3).integers(0, 256, (16, 3072), dtype=np.uint8)
    labels = [number % 7 for number in range(16)]

    def write(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    fine = "fine_labels" if kind is CIFAR100 else "labels"
    train = write("part_1", {"data": pixels[:11], fine: labels[:11]})
    test = write("part_2", {"data": pixels[11:], fine: labels[11:]})
    meta = write("names", {key: CLASSES})
    patch.setattr(kind, "train_list", [["part_1", train]])
    patch.setattr(kind, "test_list", [["part_2", test]])
    patch.setattr(kind, "meta", {"filename": "names", "key": key, "md5": meta})
    return pixels.reshape(16, 3, 32, 32).transpose(0, 2, 3, 1)  # (16, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "kind", "key"), [("cifar10", CIFAR10, "label_names"), ("cifar100", CIFAR100, "fine_label_names")]
)
def test_an_archive_on_disk_is_read_without_the_network(
    name: str, kind: type[CIFAR10], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_archive(tmp_path, kind, key, monkeypatch)
    train, val = (CifarImages(tmp_path, name, train=train) for train in (True, False))
    assert isinstance(train, ImageSource)
    assert (len(train), len(val)) == (11, 5)
    assert train.classes == tuple(CLASSES)
    assert (train.name(3), val.name(3)) == ("train/00003", "val/00003")
    assert (val.label(4), val.label(0)) == (15 % 7, 11 % 7)
    assert np.array_equal(np.asarray(val.read(2)), pixels[13])
    opened = open_data(DataSettings(data=name, download_dir=str(tmp_path)))
    assert isinstance(opened.train, CifarImages) and opened.train.in_memory  # without a cache around it


def test_a_missing_archive_without_download_is_one_sentence(tmp_path: Path) -> None:
    begin = time.perf_counter()
    with pytest.raises(UserError, match="cifar10 is not complete in .*cifar-10-batches-py; .* pass `download`"):
        CifarImages(tmp_path, "cifar10", train=True)
    assert time.perf_counter() - begin < 5
    assert not list(tmp_path.iterdir())


def test_a_damaged_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path, CIFAR10, "label_names", monkeypatch)
    part = tmp_path / CIFAR10.base_folder / "part_2"
    content = bytearray(part.read_bytes())
    content[99] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match="not complete"):
        CifarImages(tmp_path, "cifar10", train=False)


def test_a_download_without_a_network_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cifar100 could not be downloaded to"):
        CifarImages(tmp_path, "cifar100", train=True, download=True)


def test_an_unknown_name_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean "cifar100?"'):
        CifarImages(tmp_path, "cifar", train=True)
