"""Models of a page: predictions and attention as of the library, points, the time limit."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import gcnet
from demo.hostile_files import encoded, photo
from gcnet.analysis.capture import capture
from gcnet.data.decode import open_image
from gcnet.data.settings import Preprocessing
from gcnet.data.transforms import build_eval_transform
from gcnet.demo.models import (
    DemoModel,
    Worker,
    attention_values,
    open_models,
    point_in_image,
    point_in_region,
    short_names,
)
from gcnet.demo.settings import DemoSettings
from gcnet.errors import UserError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo(96, 64), "PNG"))
    return path


def open_two(*paths: Path) -> list[DemoModel]:
    return open_models(DemoSettings(tuple(map(str, paths)), device="cpu"), lambda _: None)[0]


@pytest.mark.slow
def test_a_prediction_is_that_of_the_library(models: dict[str, Path], image: Path) -> None:
    classifier, detector = open_two(models["gc"], models["detector"])
    expected = gcnet.load(models["gc"], device="cpu")(image, topk=3).to_dict()
    assert classifier.predict(image, topk=3, threshold=0.5).to_dict() == expected
    expected = gcnet.load(models["detector"], device="cpu")(image, threshold=0.1).to_dict()
    assert detector.predict(image, topk=3, threshold=0.1).to_dict() == expected
    assert (classifier.is_detector, detector.is_detector) == (False, True)


@pytest.mark.slow
def test_attention_is_that_of_the_clicked_query(models: dict[str, Path], image: Path) -> None:
    (model,) = open_two(models["nl"])
    maps = model.attention(image)
    assert model.attention(image) is maps
    network = gcnet.load(models["nl"], device="cpu")
    pixels = build_eval_transform(Preprocessing(64, 73))(open_image(image))
    with torch.no_grad(), capture(network.model) as captured:
        network.model(pixels[None])
    (name, attention) = captured.attention[0]
    values = attention_values(maps, (0.99, 0.0))
    assert [layer["name"] for layer in values] == [name]
    assert values[0]["query"] == [0, attention.grid[1] - 1] and not values[0]["shared"]
    expected = attention.weights[0, :, attention.grid[1] - 1].mean(0).view(attention.grid) * attention.positions
    assert np.array(values[0]["attention"]) == pytest.approx(expected.numpy(), rel=1e-4)


def test_points_are_converted_between_the_image_and_the_crop_of_the_network(
    models: dict[str, Path], image: Path
) -> None:
    (model,) = open_two(models["gc"])
    maps = model.attention(image)  # 96 x 64: short side to 73, then the central 64 of 109 x 73
    assert maps.region == pytest.approx((22 / 109, 4 / 73, 86 / 109, 68 / 73))
    assert point_in_image(maps, (0.0, 1.0)) == pytest.approx((22 / 109, 68 / 73))
    assert point_in_region(maps, point_in_image(maps, (0.25, 0.75))) == pytest.approx((0.25, 0.75))
    with pytest.raises(UserError, match=r"the network sees x from 0.202 to 0.789 and y .* found 0.1, 0.5"):
        point_in_region(maps, (0.1, 0.5))


def test_a_result_that_takes_too_long_is_a_sentence_and_the_next_one_comes() -> None:
    run, ended = Worker(0.2), threading.Event()
    with pytest.raises(UserError, match=r"no result within 0.2 seconds"):
        run(ended.wait, 60)
    ended.set()
    run.timeout = 60
    assert run(pow, 3, 2) == 9
    with pytest.raises(ZeroDivisionError):
        run(divmod, 1, 0)
    run.close()


def test_names_are_short_and_different() -> None:
    assert short_names(["runs/gc", "/data/nl.safetensors"]) == ["gc", "nl.safetensors"]
    assert short_names(["a/best.safetensors", "/b/best.safetensors"]) == ["a/best.safetensors", "b/best.safetensors"]
