"""What is drawn of attention: maps in their unit, query points where they should be, figures that show them."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.analysis.attention import Attention
from gcnet.analysis.capture import Gate
from gcnet.analysis.query_independence import Interval, Layer
from gcnet.data.settings import Preprocessing
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.tasks.classification.attention import attention_of_image
from gcnet.tasks.classification.trained import TrainedClassifier
from gcnet.visualization.attention_figures import plot_distances, plot_gates, plot_queries, plot_shared
from gcnet.visualization.attention_maps import (
    COLOR_MAP,
    ImageMaps,
    LayerMaps,
    choose_points,
    image_edges,
    log_ratio,
    scale_limit,
)
from gcnet.visualization.gates import GateMeans


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def one_layer(weights: torch.Tensor, grid: tuple[int, int], name: str = "layer") -> ImageMaps:
    layer = LayerMaps(name, "Kind", Attention(weights, grid, grid))
    return ImageMaps(Path("photo.png"), Image.new("RGB", (32, 32), (90, 90, 90)), 0, "cat 73%", (layer,), ())


def test_an_even_map_is_one_everywhere_and_a_point_finds_its_position() -> None:
    even = one_layer(torch.full((1, 1, 6, 6), 1 / 6), (2, 3)).layers[0]
    assert np.allclose(even.map_of((0.9, 0.1)), 1)
    own = one_layer(torch.eye(6).view(1, 1, 6, 6), (2, 3)).layers[0]
    for point, place in (((0, 0), (0, 0)), ((0.4, 0.9), (1, 1)), ((1, 1), (1, 2)), ((0.99, 0.49), (0, 2))):
        expected = np.zeros((2, 3))
        expected[place] = 6
        assert np.array_equal(own.map_of(point), expected)
    assert np.allclose(own.mean_map(), 1)


def test_an_image_is_looked_at_as_the_network_sees_it(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    network = TrainedClassifier(create_model("gc_cifar_resnet20", num_classes=3), 3, class_names=("ant", "bee", "cat"))
    network.model.train()
    maps = attention_of_image(network, tmp_path / "a.png", Preprocessing(16, 20))
    assert maps.image.size == (16, 16)
    assert [layer.attention.grid for layer in maps.layers] == [(16, 16)] * 3 + [(8, 8)] * 3 + [(4, 4)] * 3
    assert maps.answer.split()[0] == ("ant", "bee", "cat")[maps.label]
    assert network.model.training


def test_different_points_are_in_parts_of_different_colors() -> None:
    image = Image.new("RGB", (56, 56), "black")
    for color, corner in (("red", (0, 0)), ("lime", (44, 0)), ("blue", (0, 44))):
        image.paste(color, (*corner, corner[0] + 12, corner[1] + 12))
    points = choose_points(["auto"], image)
    colors = {image.getpixel((int(x * 56), int(y * 56))) for x, y in points}
    assert colors == {(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)}
    assert len(set(choose_points(["auto"], Image.new("RGB", (9, 9), "gray")))) == 4


def test_points_are_taken_as_they_are_given() -> None:
    image = Image.new("RGB", (9, 9))
    assert choose_points(["0.5,0.25", "0,1"], image) == [(0.5, 0.25), (0.0, 1.0)]
    grid = choose_points(["grid"], image)
    assert len(grid) == 9
    assert grid[1] == (0.5, pytest.approx(1 / 6))


@pytest.mark.parametrize("word", ["0.5", "1.5,0", "a,b", "0.1,0.2,0.3", "nan,0", "auto,grid"])
def test_points_that_cannot_be_get_a_sentence(word: str) -> None:
    with pytest.raises(UserError, match='`points` takes "auto", "grid", or points as X,Y'):
        choose_points([word], Image.new("RGB", (9, 9)))


def test_each_query_of_a_layer_is_drawn_where_it_looks(tmp_path: Path) -> None:
    maps = one_layer(torch.eye(4).view(1, 1, 4, 4), (2, 2), name="a $name$ of some length that goes on and on")
    assert plot_queries(maps, [(0.2, 0.2), (0.8, 0.2)], tmp_path / "queries.png") == 1
    assert plot_shared(maps, tmp_path / "shared.png") == 0
    assert not (tmp_path / "shared.png").exists()
    pixels = _pixels(tmp_path / "queries.png")
    top = 255 * np.array(matplotlib.colormaps[COLOR_MAP](1.0)[:3])
    columns = np.flatnonzero((np.abs(pixels - top).max(-1) <= 3).sum(0) > 30)
    assert len(columns) > 0
    assert columns[0] < pixels.shape[1] / 3 < columns[-1]


def test_uniform_attention_is_the_middle_of_a_symmetric_logarithmic_scale() -> None:
    values = np.array([[1.0, 2.0], [0.5, 8.0]])
    limit = scale_limit(values)
    assert limit == 3
    assert log_ratio(values, limit).tolist() == [[0, 1], [-1, 3]]
    assert log_ratio(np.array([0.0, -0.3, 1e-9]), 3.0).tolist() == [-3, -3, -3]


@pytest.mark.parametrize(("highest", "limit"), [(1.0, 1.0), (1.5, 1.0), (6144.0, math.log2(6144))])
def test_the_scale_of_an_even_map_ends_at_twice_uniform_attention(highest: float, limit: float) -> None:
    assert scale_limit(np.full((3, 5), highest)) == pytest.approx(limit)


def test_edges_are_where_an_image_changes() -> None:
    image = Image.new("RGB", (8, 6))
    image.paste("white", (4, 0, 8, 6))
    edges = image_edges(image)
    assert edges.shape == (6, 8)
    assert (edges[:, 3:5] == 1).all() and not edges[:, :3].any() and not edges[:, 5:].any()
    assert not image_edges(Image.new("RGB", (1, 7))).any()


def test_layers_with_one_map_are_drawn_side_by_side(tmp_path: Path) -> None:
    maps = one_layer(torch.full((1, 1, 4), 0.25), (2, 2))
    many = ImageMaps(maps.path, maps.image, 0, "cat", maps.layers * 20, ())
    assert plot_shared(many, tmp_path / "shared.png") == 16
    assert plot_queries(many, [(0, 0)], tmp_path / "queries.png") == 0
    height, width, _ = _pixels(tmp_path / "shared.png").shape
    assert (height > 500, width > 900) == (True, True)


def test_gates_are_averaged_by_class_and_drawn(tmp_path: Path) -> None:
    means = GateMeans()
    means.add([Gate("one", torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]))], [4, 2, 4])
    means.add([Gate("one", torch.tensor([[0.1, 0.3]]))], [2])
    assert (means.names, means.labels) == (["one"], [2, 4])
    ((name, rows),) = means.rows()
    assert name == "one"
    assert rows == pytest.approx(np.array([[0.3, 0.4], [0.5, 0.5]]))
    for count in (2, 33):
        plot_gates([("one", np.random.rand(count, 7))] * 3, ["$class$"] * count, tmp_path / "gates.png", images=1)
        assert _pixels(tmp_path / "gates.png").shape[1] > 600


def test_distances_are_drawn_for_layers_with_and_without_intervals(tmp_path: Path) -> None:
    some, single = Interval(0.2, 0.1, 0.3), Interval(0.2, None, None)
    facts = ("Kind", (3, 5), 8, 2, False, False)
    layers = [
        Layer("first", *facts, some, some, some, some, 0.0),
        Layer("second", *facts, single, None, single, None, 0.0),
    ]
    plot_distances(layers, tmp_path / "distances.png")
    pixels = _pixels(tmp_path / "distances.png")
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (np.abs(pixels - np.array(color)).max(-1) <= 3).any()
