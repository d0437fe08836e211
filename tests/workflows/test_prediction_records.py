"""Records of predictions: the same as in the JSON of the other outputs, in order, with an error per damaged image."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gcnet
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.tasks.settings import PredictSettings
from gcnet.workflows.prediction_records import PredictionFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, of which the second is damaged, a classifier and a detector."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "photos").mkdir()
    generator = np.random.default_rng(3)
    for index in range(5):
        pixels = generator.integers(0, 256, (37 + index, 41, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    (folder / "photos" / "1.png").write_bytes(b"no image")
    torch.manual_seed(0)
    save_model(create_model("gc_scenes_resnet"), folder / "classifier.safetensors", preprocessing={"image_size": 32})
    save_model(create_model("mask_rcnn_scenes_resnet", num_classes=4), folder / "detector.safetensors")
    return folder


OPTIONS = {
    "classifier": {"topk": 2, "batch_size": 2},
    "detector": {"threshold": 0.0, "detections_per_image": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", OPTIONS)
def test_records_are_the_predictions_in_the_order_of_the_images(folder: Path, tmp_path: Path, model: str) -> None:
    arguments = {"model": folder / f"{model}.safetensors", "device": "cpu", **OPTIONS[model]}
    output = tmp_path / "new" / "records.jsonl"
    written = gcnet.predict(folder / "photos", output=output, **arguments)
    assert written == PredictionFile(output, images=4, skipped=1)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    whole = gcnet.predict(folder / "photos", **arguments)
    expected = [image.to_dict() for image in whole.images]
    reason = "not an image of a known format"
    expected.insert(1, {"path": str(folder / "photos" / "1.png"), "error": reason})
    assert records == json.loads(json.dumps(expected))


@pytest.mark.slow
@pytest.mark.parametrize("model", OPTIONS)
def test_parquet_has_the_records_of_json_lines(folder: Path, tmp_path: Path, model: str) -> None:
    from pyarrow import parquet

    arguments = {"model": folder / f"{model}.safetensors", "device": "cpu", **OPTIONS[model]}
    for name in ("records.jsonl", "records.parquet"):
        gcnet.predict(folder / "photos", output=tmp_path / name, **arguments)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    table = parquet.read_table(tmp_path / "records.parquet")
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    assert rows == [json.loads(line) for line in lines]


def test_parquet_escapes_names_that_are_not_utf8(folder: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    image = tmp_path / "n\udcff.png"
    image.write_bytes((folder / "photos" / "0.png").read_bytes())
    output = tmp_path / "records.parquet"
    written = gcnet.predict(image, model=folder / "classifier.safetensors", output=output, device="cpu")
    assert written.images == 1
    (row,) = parquet.read_table(output).to_pylist()
    assert row["path"] == f"{tmp_path}/n\\udcff.png" and row["classes"]


def test_a_failed_prediction_leaves_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gcnet.tasks.classification.predict import ClassPredictor

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassPredictor, "_predict", fail)
    with pytest.raises(KeyboardInterrupt):
        gcnet.predict(
            folder / "photos", model=folder / "classifier.safetensors", output=tmp_path / "r.jsonl", device="cpu"
        )
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_names_the_extra(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'Parquet requires pyarrow, .* pip install "gcnet\[ray\]"'):
        gcnet.predict(
            folder / "photos", model=folder / "classifier.safetensors", output=tmp_path / "r.parquet", device="cpu"
        )


def test_a_cluster_needs_a_file_of_records_as_output() -> None:
    with pytest.raises(UserError, match=r"`cluster` requires `output` to a \.jsonl or \.parquet file"):
        PredictSettings((Path("photos"),), "model", cluster="auto", output=Path("sheet.png"))


def test_tables_of_all_predictions_are_refused_beside_records() -> None:
    with pytest.raises(UserError, match="`output=r.jsonl` excludes them"):
        PredictSettings((Path("photos"),), "model", csv=Path("t.csv"), output=Path("r.jsonl"))
