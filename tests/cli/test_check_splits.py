"""Annotation files of several splits compared by `gcnet check-data`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.coco.annotated import HEIGHT, WIDTH, content, write_json
from gcnet.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training and two validation images of noise, all different."""
    random = np.random.default_rng(3)
    for split, count in (("train", 3), ("valid", 2)):
        names = [f"{number}.png" for number in range(count)]
        write_json(tmp_path / split / "_annotations.coco.json", content(names))
        for name in names:
            Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(tmp_path / split / name)
    return tmp_path


def test_splits_of_other_images_are_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(folder)]) == 0
    assert "images in both" not in capsys.readouterr().out


def test_images_in_several_splits_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "train" / "2.png", folder / "valid" / "1.png")
    assert main(["check-data", str(folder)]) == 1
    printed = capsys.readouterr().out
    files = [folder / split / "_annotations.coco.json" for split in ("train", "valid")]
    assert f"images in both {files[0]} and {files[1]}: 1 (makes the AP too high)\n" in printed
    assert "  2.png: the same bytes as 1.png\n" in printed


def test_other_categories_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "valid" / "_annotations.coco.json"
    changed = json.loads(file.read_text())
    changed["categories"].append({"id": 3, "name": "cow"})
    file.write_text(json.dumps(changed))
    assert main(["check-data", str(folder)]) == 1
    assert "differ, in names or ids: cow\n" in capsys.readouterr().out
