"""Commands under torchrun: two processes share the images, and write the same files as one, once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.models.create import create_model
from gcnet.models.model_file import save_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, of which the third is damaged, a classifier and a detector."""
    folder = tmp_path_factory.mktemp("shared")
    generator = np.random.default_rng(3)
    for index in range(7):
        path = folder / "photos" / ("ab"[index % 2]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (37 + index, 41, 3), dtype=np.uint8)).save(path)
    (folder / "photos" / "a" / "2.png").write_bytes(b"no image")
    torch.manual_seed(0)
    classifier = create_model("nl_embedded_gaussian_scenes_resnet", num_classes=2)
    save_model(classifier, folder / "classifier.safetensors", preprocessing={"image_size": 32}, class_names=("a", "b"))
    save_model(create_model("mask_rcnn_scenes_resnet", num_classes=4), folder / "detector.safetensors")
    return folder


def _run(folder: Path, output: Path, words: str, *, processes: int) -> tuple[str, str]:
    """Run a command in the folder `output`; returns what it prints on standard output and standard error."""
    output.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
    command = [sys.executable, *launcher, "-m", "gcnet", *words.replace("FOLDER", str(folder)).split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--device", "cpu"], capture_output=True, text=True, timeout=240, env=environment, cwd=output
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def _files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "words",
    [
        "predict FOLDER/photos --model FOLDER/classifier.safetensors --batch-size 2 --json p.json --csv p.csv "
        "--output sheet.png",
        "predict FOLDER/photos --model FOLDER/classifier.safetensors --batch-size 2 --output records.jsonl",
        "predict FOLDER/photos --model FOLDER/detector.safetensors --threshold 0 --detections-per-image 3 "
        "--json p.json --csv p.csv --output pictures",
        "analyze FOLDER/classifier.safetensors --statistics --data FOLDER/photos --batch-size 2",
    ],
)
def test_two_processes_write_the_same_files_as_one(folder: Path, tmp_path: Path, words: str) -> None:
    alone = _run(folder, tmp_path / "alone", words, processes=1)
    shared = _run(folder, tmp_path / "shared", words, processes=2)
    assert shared[0] == alone[0]
    assert shared[1].count("6 of 7 images") == 1
    assert shared[1].count("2 processes share the images") == 1
    files = _files(tmp_path / "shared")
    assert files
    assert files == _files(tmp_path / "alone")
