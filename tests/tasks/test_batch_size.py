"""`batch_size=auto` of evaluations and predictions: the largest that fits, with the results of that number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gcnet
from gcnet.data.scenes import Scenes
from gcnet.errors import OutOfMemory, UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.models.outputs import class_scores
from gcnet.tasks.detection import inference
from gcnet.tasks.detection.inference import largest_images

FEW = 5  # images that fit into memory


def limited(function: Callable[..., Any], count: Callable[..., int], most: int = FEW) -> Callable[..., Any]:
    """The function, without memory for more images."""

    def call(*arguments: Any, **options: Any) -> Any:
        if count(*arguments) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return function(*arguments, **options)

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, a detector, and seven images with annotations."""
    folder = tmp_path_factory.mktemp("automatic")
    torch.manual_seed(0)
    save_model(create_model("gc_scenes_resnet"), folder / "classifier.safetensors", preprocessing={"image_size": 32})
    save_model(create_model("mask_rcnn_scenes_resnet", num_classes=3), folder / "detector.safetensors")
    Scenes(7, split="val").write_coco(folder / "val", folder / "annotations" / "instances_val.json")
    return folder


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers and detectors run on `FEW` images at most."""
    for module in ("predict", "evaluate"):
        name = f"gcnet.tasks.classification.{module}.class_scores"
        monkeypatch.setattr(name, limited(class_scores, lambda _, images: len(images)))
    original = inference.detect
    counted = limited(original, lambda _, images: len(images))
    monkeypatch.setattr(inference, "detect", counted)
    monkeypatch.setattr("gcnet.tasks.detection.predict.detect", counted)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("model", "images", "size", "tried"), [("classifier", 12, 3, 6), ("classifier", 5, 5, None), ("detector", 7, 3, 7)]
)
def test_an_evaluation_records_the_size_and_has_the_results_of_it(
    model: str, images: int, size: int, tried: int | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = "scenes" if model == "classifier" else str(folder)
    arguments = {"data": data, "limit": images, "device": "cpu"}
    caplog.set_level("INFO", "gcnet")
    found = gcnet.evaluate(folder / f"{model}.safetensors", batch_size="auto", **arguments).to_dict()
    lines = [line for line in caplog.messages if line.startswith("batch size")]
    assert lines == [f"batch size: {size} images, by trial" + (f"; {tried} do not fit into memory" if tried else "")]
    assert found["machine"]["batch_size"] == size
    assert found == gcnet.evaluate(folder / f"{model}.safetensors", batch_size=size, **arguments).to_dict()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("model", ["classifier", "detector"])
def test_a_prediction_has_the_results_of_the_size_that_fits(
    model: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gcnet")
    arguments = {"model": folder / f"{model}.safetensors", "device": "cpu"}
    found, expected = (gcnet.predict(folder / "val", batch_size=size, **arguments).to_dict() for size in ("auto", 3))
    assert found == expected
    for name, size in (("auto", "auto"), ("three", 3)):
        gcnet.predict(folder / "val", batch_size=size, output=tmp_path / f"{name}.jsonl", **arguments)
    assert (tmp_path / "auto.jsonl").read_bytes() == (tmp_path / "three.jsonl").read_bytes()
    lines = [line for line in caplog.messages if line.startswith("batch size")]
    assert lines == ["batch size: 3 images, by trial; 7 do not fit into memory"] * 2


def test_a_single_image_that_does_not_fit_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = limited(class_scores, lambda _, images: len(images), most=0)
    monkeypatch.setattr("gcnet.tasks.classification.evaluate.class_scores", without)
    with pytest.raises(OutOfMemory, match=r"could not allocate 2.50 GiB with batches of 1 image \(`batch_size=1`\)"):
        gcnet.evaluate(folder / "classifier.safetensors", data="scenes", limit=4, batch_size="auto", device="cpu")


def test_other_words_are_refused(folder: Path) -> None:
    model = folder / "classifier.safetensors"
    with pytest.raises(UserError, match="batch_size"):
        gcnet.evaluate(model, data="scenes", limit=4, batch_size="many", device="cpu")
    with pytest.raises(UserError, match="with `cluster`, `batch_size` must be a number"):
        gcnet.predict(folder / "val", model=model, batch_size="auto", cluster="auto", output=folder / "a.jsonl")


def test_the_images_of_a_trial_are_resized_to_the_largest_sizes() -> None:
    network: Any = create_model("mask_rcnn_scenes_resnet").eval()
    transform = network.transform
    tensors = [torch.zeros(3, image.height, image.width) for image in largest_images(network, 3)]
    batch, _ = transform(tensors)
    short, long = min(transform.min_size[-1], transform.max_size), transform.max_size
    assert batch.image_sizes == [(short, long), (long, short), (short, long)]
    # No other image of this detector is resized to more pixels.
    for height, width in ((64, 64), (1, 9), (500, 20), (37, 41)):
        (resized,) = transform([torch.zeros(3, height, width)])[0].image_sizes
        assert resized[0] * resized[1] <= short * long


def test_missing_memory_names_the_size_by_trial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = limited(class_scores, lambda _, images: len(images), most=0)
    monkeypatch.setattr("gcnet.tasks.classification.evaluate.class_scores", without)
    monkeypatch.setattr("gcnet.tasks.classification.metrics.class_scores", without)
    sentence = r"\(`batch_size=2`\); use a smaller `batch_size`, or `batch_size=auto`, which tries what fits$"
    with pytest.raises(OutOfMemory, match=sentence):
        gcnet.evaluate(folder / "classifier.safetensors", data="scenes", limit=4, batch_size=2, device="cpu")


@pytest.mark.parametrize("model", ["classifier", "detector"])
def test_a_prediction_that_needs_more_than_its_trial_goes_on_with_smaller_batches(
    model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"model": folder / f"{model}.safetensors", "device": "cpu"}
    expected = gcnet.predict(folder / "val", batch_size=1, **arguments).to_dict()
    monkeypatch.setattr("gcnet.tasks.batch_size.largest_that_fits", lambda sizes, *_: sizes[0])
    kind, name = ("classification", "class_scores") if model == "classifier" else ("detection", "detect")
    place = f"gcnet.tasks.{kind}.predict.{name}"
    function = class_scores if model == "classifier" else inference.detect
    monkeypatch.setattr(place, limited(function, lambda _, images: len(images), most=1))
    records = tmp_path / "records.jsonl"
    sentence = "batches of {} images need more memory than their trial: now of {}"
    with pytest.warns(UserWarning, match="than their trial") as warned:
        found = gcnet.predict(folder / "val", batch_size="auto", **arguments).to_dict()
    assert found == expected
    assert [str(entry.message) for entry in warned] == [sentence.format(7, 3), sentence.format(3, 1)]
    with pytest.warns(UserWarning, match="than their trial"):
        gcnet.predict(folder / "val", batch_size="auto", output=records, **arguments)
    names = [json.loads(line)["path"] for line in records.read_text().splitlines()]
    assert names == sorted(map(str, (folder / "val").iterdir()))
    monkeypatch.setattr(place, limited(function, lambda _, images: len(images), most=0))
    with pytest.raises(OutOfMemory, match="`batch_size=1`"), pytest.warns(UserWarning, match="trial"):
        gcnet.predict(folder / "val", batch_size="auto", **arguments)


def test_an_evaluation_that_needs_more_than_its_trial_names_a_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcnet.tasks.batch_size.largest_that_fits", lambda sizes, *_: sizes[0])
    without = limited(class_scores, lambda _, images: len(images), most=1)
    monkeypatch.setattr("gcnet.tasks.classification.metrics.class_scores", without)
    with pytest.raises(OutOfMemory, match=r"\(`batch_size=4`\); use `batch_size=2`$"):
        gcnet.evaluate(folder / "classifier.safetensors", data="scenes", limit=4, batch_size="auto", device="cpu")
