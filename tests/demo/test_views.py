"""Predictions and attention as HTML, with every text escaped."""

import base64
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import gcnet
from demo.hostile_files import encoded, photo
from gcnet.analysis.attention import Attention
from gcnet.demo import views
from gcnet.demo.models import open_models
from gcnet.demo.settings import DemoSettings
from gcnet.errors import UserError
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps

NAMES = ["<script>alert(1)</script>", "${alert(2)}", "{{value}}"]


def downloaded(html: str) -> dict:
    (data,) = re.findall(r'href="data:application/json;base64,([^"]+)"', html)
    return json.loads(base64.b64decode(data))


def test_class_names_are_escaped(tmp_path: Path) -> None:
    model = gcnet.create_model("gc_scenes_resnet", num_classes=3)
    gcnet.save_model(model, tmp_path / "m.safetensors", preprocessing={"image_size": 64}, class_names=NAMES)
    (tmp_path / "photo.png").write_bytes(encoded(photo(), "PNG"))
    (opened,), _ = open_models(DemoSettings((str(tmp_path / "m.safetensors"),), device="cpu"), lambda _: None)
    (image,) = opened.predict(tmp_path / "photo.png", topk=3, threshold=0.5).images
    html = views.prediction(opened, image, image.to_dict())
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert {item["class"] for item in downloaded(html)["classes"]} == set(NAMES)


def test_an_error_is_escaped_and_without_marks() -> None:
    html = views.error(UserError("<b>`name`\x1b[31m.png: truncated"))
    assert "&lt;b&gt;name\\x1b[31m.png: truncated" in html and 'role="alert"' in html


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ((1, 1, 4), "one attention map for all query positions"),
        ((1, 1, 4, 4), "Attention of the clicked point"),
    ],
)
def test_the_page_says_whether_the_maps_depend_on_the_query(
    models: dict[str, Path], weights: tuple[int, ...], sentence: str
) -> None:
    (model,), _ = open_models(DemoSettings((str(models["gc"]),), device="cpu"), lambda _: None)
    attention = Attention(torch.full(weights, 0.25), (2, 2), (2, 2))
    maps = ImageMaps(Path("a.png"), Image.new("RGB", (32, 32)), 0, "", (LayerMaps("layer4", "Kind", attention),), ())
    html = views.attention(model, maps, (0.5, 0.5))
    assert sentence in " ".join(html.split()) and "2 &times; 2 positions" in html
    assert downloaded(html)["layers"][0]["attention"] == [[1.0, 1.0], [1.0, 1.0]]


def test_a_model_without_attention_has_a_sentence(models: dict[str, Path]) -> None:
    (model,), _ = open_models(DemoSettings((str(models["gc"]),), device="cpu"), lambda _: None)
    maps = ImageMaps(Path("a.png"), Image.new("RGB", (32, 32)), 0, "", (), ())
    assert "no attention over positions" in views.attention(model, maps, (0.5, 0.5))
    assert views.picture(maps, (0.5, 0.5)).size == (448, 448)
