"""`gcnet.load`: predictors, judged by running the network by hand and by `gcnet.predict` on files."""

import copy
import csv
import io
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gcnet
from gcnet.errors import UserError
from gcnet.tasks.classification.predictions import Predictions

CLASSES = ("circle", "square", "star", "moon", "sun", "dot")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "scenes.safetensors"
    model = gcnet.create_model("gc_scenes_resnet")
    gcnet.save_model(model, path, preprocessing={"image_size": 64}, class_names=CLASSES)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "finder.safetensors"
    model = gcnet.create_model("mask_rcnn_gc_scenes_resnet", num_classes=3)
    gcnet.save_model(model, path, class_names=("cube", "cone", "ball"))
    return path


def pixels(seed: int = 0, height: int = 70, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def probabilities(result: Any) -> list[tuple[tuple[str, float], ...]]:
    return [image.classes for image in result.images]


def test_probabilities_are_those_of_the_network(classifier: Path) -> None:
    predictor = gcnet.load(classifier, device="cpu")
    image = pixels(0, 64, 64)  # no resizing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    tensor = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        expected = predictor.model(tensor[None]).softmax(1)[0]
    result = predictor(image, topk=6)
    assert isinstance(result, Predictions)
    found = dict(result.images[0].classes)
    assert found.keys() == set(CLASSES)
    for name, value in zip(CLASSES, expected.tolist(), strict=True):
        assert found[name] == pytest.approx(value, abs=1e-5)


def test_every_form_of_an_image_gives_the_same_prediction(classifier: Path, tmp_path: Path) -> None:
    predictor = gcnet.load(classifier, device="cpu")
    array = pixels()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    file = tmp_path / "image.png"
    Image.fromarray(array).save(file)
    forms: dict[str, Any] = {
        "file": file,
        "text": str(file),
        "folder": tmp_path,
        "PIL": Image.fromarray(array),
        "opened file": Image.open(file),
        "RGBA": np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
        "array": array,
        "batch": array[None],
        "uint8 tensor": tensor,
        "float tensor": tensor / 255,
        "tensor batch": tensor[None],
        "list": [array],
        "generator": (one for one in [array]),
    }
    expected = probabilities(predictor(array))
    for name, form in forms.items():
        assert probabilities(predictor(form)) == expected, name


def test_gray_images_are_converted_as_files_are(classifier: Path, tmp_path: Path) -> None:
    predictor = gcnet.load(classifier, device="cpu")
    gray = pixels()[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    expected = probabilities(predictor(tmp_path / "gray.png"))
    for form in (gray, gray[..., None], torch.from_numpy(gray)[None]):
        assert probabilities(predictor(form)) == expected


def test_an_image_with_an_exif_orientation_is_turned(classifier: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(tmp_path / "turned.png", exif=exif)
    predictor = gcnet.load(classifier, device="cpu")
    opened = Image.open(tmp_path / "turned.png")
    expected = probabilities(predictor(np.rot90(pixels(), -1).copy()))
    assert probabilities(predictor(opened)) == probabilities(predictor(tmp_path / "turned.png")) == expected


def test_mixed_images_keep_their_order_and_damaged_files_are_skipped(classifier: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels(1)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"\x89PNG damaged")
    predictor = gcnet.load(classifier, device="cpu")
    result = predictor([pixels(0), tmp_path, pixels(2)], batch_size=2)
    assert [image.source.name for image in result.images] == ["image 1", str(tmp_path / "1.png"), "image 4"]
    assert [skipped.name for skipped in result.skipped] == [str(tmp_path / "2.png")]
    alone = [probabilities(predictor(pixels(seed)))[0] for seed in (0, 1, 2)]
    for together, one in zip(probabilities(result), alone, strict=True):
        assert [name for name, _ in together] == [name for name, _ in one]
        assert [value for _, value in together] == pytest.approx([value for _, value in one], abs=1e-6)


WRONG: dict[str, tuple[Any, str]] = {
    "float array": (np.zeros((8, 8, 3)), "arrays of images must be uint8 .* found float64"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), "arrays of images must be uint8"),
    "five axes": (np.zeros((1, 1, 8, 8, 3), np.uint8), "arrays of images must be uint8"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
    "channels last": (torch.zeros(8, 8, 3), "tensors of images must be uint8 or floating point"),
    "integers": (torch.zeros(3, 8, 8, dtype=torch.int64), "found int64"),
    "normalized": (torch.full((3, 8, 8), -2.1), "from 0 to 1, not normalized; found values from -2.1"),
    "not finite": (torch.full((3, 8, 8), float("nan")), "from 0 to 1"),
    "image without pixels": (Image.new("RGB", (0, 5)), r"at least one pixel, found an image \(5, 0\)"),
    "sparse": (torch.zeros(3, 8, 8).to_sparse(), "found a sparse, quantized or meta tensor"),
    "meta": (torch.zeros(3, 8, 8, device="meta"), "found a sparse, quantized or meta tensor"),
    "open file": (io.BytesIO(b"abc"), "found BytesIO"),
    "empty path": ("", "must not be empty"),
    "NUL in a path": ("a\0b.png", r"no file or folder a\\x00b.png"),
    "number": (7, "found int"),
    "None": (None, "found NoneType"),
    "bytes": (b"abc", "found bytes"),
    "missing file": ("no_such_file.png", "there is no file or folder no_such_file.png"),
    "URL": ("https://example.org/cat.jpg", "URLs are not supported"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_is_answered_in_a_sentence(kind: str, classifier: Path) -> None:
    images, message = WRONG[kind]
    with pytest.raises(UserError, match=message):
        gcnet.load(classifier, device="cpu")(images)


def test_wrong_options_are_answered_in_a_sentence(classifier: Path, detector: Path) -> None:
    image = pixels()
    for options, message in (({"precision": "half"}, "precision"), ({"threads": 0}, "`threads` must be at least 1")):
        with pytest.raises(UserError, match=message):
            gcnet.load(classifier, **options)
    predictor = gcnet.load(classifier, device="cpu")
    for options, message in (({"topk": 0}, "`topk`"), ({"batch_size": 0}, "`batch_size` must be at least 1")):
        with pytest.raises(UserError, match=message):
            predictor(image, **options)
    finder: Any = gcnet.load(detector, device="cpu")
    for options, message in (({"threshold": 2}, "`threshold`"), ({"classes": ["cub"]}, 'did you mean "cube"')):
        with pytest.raises(UserError, match=message):
            finder(image, **options)
    predictor.model.train()
    with pytest.raises(UserError, match="must be in eval mode"):
        predictor(image)
    predictor.model.eval().half()
    with pytest.raises(UserError, match=r"must be in float32, found float16: call `predictor.model.float\(\)`"):
        predictor(image)
    with pytest.raises(UserError, match="`image_size` is an option of classifiers"):
        gcnet.load(detector, image_size=64)


def test_the_image_size_of_a_model_file_can_be_changed(classifier: Path) -> None:
    image = pixels(0, 96, 96)
    small, large = (gcnet.load(classifier, device="cpu", image_size=size)(image) for size in (64, 96))
    assert probabilities(small) == probabilities(gcnet.load(classifier, device="cpu")(image)) != probabilities(large)
    with pytest.raises(UserError, match="`image_size`"):
        gcnet.load(classifier, device="cpu", image_size=-3)


def test_images_with_premultiplied_alpha_are_those_with_alpha(classifier: Path) -> None:
    image = Image.fromarray(pixels()[..., :2].copy(), "LA")
    predictor = gcnet.load(classifier, device="cpu")
    premultiplied = image.convert("La")
    assert probabilities(predictor(premultiplied)) == probabilities(predictor(premultiplied.convert("LA")))


def test_no_images_give_no_predictions(classifier: Path) -> None:
    assert gcnet.load(classifier, device="cpu")([]).images == ()


def test_eight_threads_give_the_results_of_one_to_the_bit(classifier: Path, detector: Path) -> None:
    arrays = [pixels(seed, 50 + 3 * seed, 64) for seed in range(8)]
    for path, options in ((classifier, {}), (detector, {"threshold": 0.0})):
        predict = partial(gcnet.load(path, device="cpu"), **options)
        alone = [predict(array).to_dict() for array in arrays]
        with ThreadPoolExecutor(8) as pool:
            together = [result.to_dict() for result in pool.map(predict, arrays * 2)]
        assert together == alone * 2


def test_threads_may_use_different_thresholds(detector: Path) -> None:
    predictor: Any = gcnet.load(detector, device="cpu")
    thresholds = [0.0, 0.3, 0.34, 0.9] * 4
    alone = [len(predictor(pixels(), threshold=value).images[0].results) for value in thresholds]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda value: len(predictor(pixels(), threshold=value).images[0].results), thresholds))
    assert together == alone


def test_detections_are_typed_and_equal_those_of_gcnet_predict(detector: Path, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    Image.fromarray(pixels()).save(file)
    predictor: Any = gcnet.load(detector, device="cpu")
    (image,) = predictor(file, threshold=0.0).images
    expected = gcnet.predict(file, model=str(detector), threshold=0.0, device="cpu").to_dict()["annotations"]
    assert len(image.labels) == len(image.scores) == len(image.boxes) == len(image.masks) == len(expected) > 0
    names = dict(enumerate(("cube", "cone", "ball"), start=1))
    for index, annotation in enumerate(expected):
        left, top, width, height = annotation["bbox"]
        assert image.boxes[index].tolist() == pytest.approx([left, top, left + width, top + height])
        assert image.labels[index] == names[annotation["category_id"]]
        assert image.scores[index] == annotation["score"]
        assert image.masks[index].shape == (70, 90)
        assert image.masks[index].sum() == annotation["area"]
    content = json.loads(json.dumps(image.to_dict()))
    assert content["objects"][0]["box"] == image.boxes[0].tolist()
    assert image.plot().mode == "RGB"


def test_an_image_without_detections_has_empty_arrays(detector: Path) -> None:
    predictor: Any = gcnet.load(detector, device="cpu")
    (image,) = predictor(pixels(), threshold=1.0).images
    assert image.boxes.shape == (0, 4) and image.masks.shape == (0, 70, 90) and image.labels == ()


def test_results_are_saved_and_drawn(classifier: Path, tmp_path: Path) -> None:
    result = gcnet.load(classifier, device="cpu")([pixels(0), pixels(1)], topk=2)
    result.save(tmp_path / "new" / "result.json")
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == result.to_dict()
    result.save(tmp_path / "result.csv")
    with (tmp_path / "result.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 2 * 2
    with pytest.raises(UserError, match=r"\.json or \.csv"):
        result.save(tmp_path / "result.txt")
    assert [picture.mode for picture in result.plot()] == ["RGB", "RGB"]


def test_half_precision_changes_probabilities_slightly(classifier: Path) -> None:
    full = probabilities(gcnet.load(classifier, device="cpu")(pixels(), topk=6))[0]
    half = probabilities(gcnet.load(classifier, device="cpu", precision="bf16")(pixels(), topk=6))[0]
    assert half != full
    for name, value in half:
        assert value == pytest.approx(dict(full)[name], abs=0.02)


def test_fused_networks_give_the_same_predictions(classifier: Path, detector: Path) -> None:
    fused, plain = (gcnet.load(classifier, device="cpu", fuse=fuse)(pixels(), topk=6) for fuse in (True, False))
    values = dict(probabilities(fused)[0])
    assert all(values[name] == pytest.approx(value, abs=1e-5) for name, value in probabilities(plain)[0])
    results: list[Any] = [
        gcnet.load(detector, device="cpu", fuse=fuse)(pixels(), threshold=0.0) for fuse in (True, False)
    ]
    (ours,), (expected,) = (result.images for result in results)
    assert len(expected.scores) > 0
    np.testing.assert_allclose(ours.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes, expected.boxes, atol=0.1)


def test_predictions_follow_changes_of_the_network(classifier: Path, detector: Path) -> None:
    predictor: Any = gcnet.load(classifier, device="cpu")
    predictor(pixels())
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.zero_()
    assert dict(probabilities(predictor(pixels(), topk=6))[0]) == pytest.approx(dict.fromkeys(CLASSES, 1 / 6))
    finder: Any = gcnet.load(detector, device="cpu")
    assert len(finder(pixels(), threshold=0.0).images[0].scores) > 3
    finder.model.roi_heads.detections_per_img = 3
    assert len(finder(pixels(), threshold=0.0).images[0].scores) == 3


def test_forward_hooks_of_the_network_see_every_prediction(classifier: Path) -> None:
    predictor = gcnet.load(classifier, device="cpu")
    expected = probabilities(predictor(pixels()))
    seen: list[tuple[int, ...]] = []
    for name, module in predictor.model.named_modules():
        if name.endswith("bn1"):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
    (found,) = probabilities(predictor(pixels()))
    assert len(seen) > 1
    assert all(value == pytest.approx(dict(expected[0])[name], abs=1e-5) for name, value in found)


def test_predictors_are_copied_and_pickled(classifier: Path) -> None:
    predictor: Any = gcnet.load(classifier, device="cpu")
    expected = probabilities(predictor(pixels()))
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert probabilities(other(pixels())) == expected
        assert other.model is not predictor.model
        with torch.no_grad():
            next(other.model.parameters()).zero_()
        assert probabilities(other(pixels())) != expected
    assert probabilities(predictor(pixels())) == expected


COMPILED = """
import sys
import numpy as np
import gcnet

image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
classifier, detector = sys.argv[1:]
plain, compiled = (
    dict(gcnet.load(classifier, device="cpu", compile=wanted)(image).images[0].classes) for wanted in (False, True)
)
assert all(abs(plain[name] - value) < 1e-5 for name, value in compiled.items())
own, fast = (gcnet.load(detector, device="cpu", compile=wanted) for wanted in (False, True))
assert np.allclose(*(one(image, threshold=0.0).images[0].scores for one in (own, fast)), atol=1e-4)
assert type(fast.model.backbone) is type(own.model.backbone), "the network itself is not compiled"
"""


@pytest.mark.slow
def test_compiled_networks_give_the_same_predictions(classifier: Path, detector: Path) -> None:
    # In a process without the checks of shapes, which torch.compile does not trace.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(classifier), str(detector)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr


def test_a_predictor_describes_itself(classifier: Path) -> None:
    predictor = gcnet.load(classifier, device="cpu")
    assert repr(predictor) == f"ClassPredictor({str(classifier)!r}, 6 classes, cpu)"
    assert predictor.names == CLASSES


def test_an_image_size_that_the_network_does_not_take_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    model = gcnet.create_model("vit_tiny_patch16_224", num_classes=3)
    gcnet.save_model(model, path, preprocessing={"image_size": 224})
    predictor = gcnet.load(path, device="cpu", image_size=100)
    with pytest.raises(UserError, match="cannot run on images of 100 x 100 pixels; it is built for 224 x 224"):
        predictor(pixels())
