"""Training a detector on a bucket: the bits of training on the folder, also after a resume; the other commands."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gcnet
from gcnet.cli import main
from gcnet.data.scenes import Scenes
from gcnet.remote_files import file_system
from gcnet.training.progress import Silent
from gcnet.training.settings import TrainSettings, override
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training
from training.photos import StoppingAt

pytestmark = pytest.mark.slow


@pytest.fixture
def scenes(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Annotated scenes in COCO's layout, and the same in a bucket."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scenes"
    for split in ("train", "val"):
        scenes = Scenes(5, split=split, seed=3)
        scenes.write_coco(folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json")
    for path in folder.rglob("*.*"):
        file_system(s3).pipe_file(f"{s3}/scenes/{path.relative_to(folder)}", path.read_bytes())
    return folder, f"{s3}/scenes"


def trained(data: str, output: Path, *, workers: int = 0, stop: int | None = None, **more: Any) -> dict[str, Any]:
    """Weights after four steps, stopped and resumed in between."""
    options = {"model": "faster_rcnn_gc_scenes_resnet", "data": data, "output": str(output), "steps": 4, "epochs": None}
    quiet = {"batch_size": 2, "rois_per_image": 16, "plots": False, "device": "cpu", "seed": 5, "color_jitter": 0.2}
    settings = override(TrainSettings(), **(options | quiet | {"workers": workers} | more))
    result = run_training(settings, reporter=Silent() if stop is None else StoppingAt(stop))
    if stop is not None:
        assert (result.stopped, result.steps) == (signal.SIGTERM, stop)
        assert resume(output, reporter=Silent()).finished
    return load_file(output / "weights" / "last.safetensors")


def test_a_bucket_gives_the_bits_of_the_folder_also_after_a_resume(scenes: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = scenes
    expected = trained(str(folder), tmp_path / "folder")
    val = f"{url}/annotations/instances_val2017.json"
    train = f"{url}/annotations/instances_train2017.json"
    found = trained(train, tmp_path / "resumed", workers=2, stop=2, val=val, images=url)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    records = [json.loads((tmp_path / run / "config.json").read_text())["data"] for run in ("folder", "resumed")]
    assert records[0] == records[1]


def test_commands_take_annotations_at_urls(
    scenes: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = scenes
    trained(url, tmp_path / "run")
    found, expected = (gcnet.evaluate(tmp_path / "run", data=place, device="cpu") for place in (url, str(folder)))
    assert found.scores == expected.scores and found.images == 5
    assert found.metrics.results == expected.metrics.results != []
    capsys.readouterr()
    reports = []
    for place in (url, str(folder)):
        code = main(["check-data", place])
        reports.append((code, capsys.readouterr().out.replace(place, "DATA")))
    assert reports[0] == reports[1]
    images = f"{url}/val2017"
    assert main(["check-data", f"{url}/annotations/instances_val2017.json", "--images", images]) == 0
    assert "images       5, 5 usable" in capsys.readouterr().out
