"""The pictures exist, have the size they should, and show what they are given."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gcnet.visualization import plots
from gcnet.visualization.images import contact_sheet
from gcnet.visualization.plots import plot_confusion, plot_learning_curves


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def _has_color(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - np.array(color)).max(axis=-1) <= 3).any())


SCORES = {"Top-1": {"top1_fraction": "top-1 (%)", "top5_fraction": "top-5 (%)"}}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, *_, **__: saved.append(figure))
    return saved


def curves(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_learning_curves_draw_losses_and_learning_rate_of_every_step(figures: list[Figure], tmp_path: Path) -> None:
    steps = [
        {
            "kind": "train",
            "step": n,
            "epoch": n / 4,
            "loss": 3.0 - n / 8,
            "learning_rate": min(n, 4) / 10,
            "seconds": 1.0,
        }
        for n in range(1, 9)
    ]
    evaluations = [
        {
            "kind": "evaluation",
            "epoch": epoch,
            "train_loss": 2.0,
            "val_loss": 2.5,
            "top1_fraction": epoch / 4,
            "top5_fraction": 0.9,
        }
        for epoch in (1, 2)
    ]
    plot_learning_curves([*steps, *evaluations], tmp_path / "curves.png", scores=SCORES)
    loss, top1, rate = figures[0].axes
    assert curves(loss)["training, by step"] == ([n / 4 for n in range(1, 9)], [3.0 - n / 8 for n in range(1, 9)])
    assert curves(loss)["validation"] == ([1, 2], [2.5, 2.5])
    assert curves(top1)["top-1 (%)"] == ([1, 2], [25, 50])
    assert top1.get_title(loc="left") == "Top-1 (best 50.0 % in epoch 2)"
    assert list(rate.lines[0].get_ydata()) == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4], "the warm-up is visible"


def test_learning_curves_of_a_detector_have_a_panel_with_the_parts_of_its_loss(
    figures: list[Figure], tmp_path: Path
) -> None:
    steps = [
        {
            "kind": "train",
            "step": n,
            "epoch": n,
            "loss": 3.0,
            "loss_mask": 2.0,
            "loss_box_reg": 1.0,
            "learning_rate": 0.1,
        }
        for n in (1, 2)
    ]
    plot_learning_curves(steps, tmp_path / "curves.png", scores={})
    parts = next(axes for axes in figures[0].axes if axes.get_title(loc="left") == "Parts of the training loss")
    assert curves(parts) == {"mask": ([1, 2], [2, 2]), "box reg": ([1, 2], [1, 1])}


def test_scores_have_the_unit_of_their_name_and_axes_from_zero(figures: list[Figure], tmp_path: Path) -> None:
    rows = [{"epoch": 1, "train_loss": 2.0, "box": 0.0, "box50": 0.0}]
    plot_learning_curves(rows, tmp_path / "curves.png", scores={"Boxes": {"box": "box AP", "box50": "box AP50"}})
    boxes = next(axes for axes in figures[0].axes if axes.get_ylabel() == "box AP, box AP50")
    assert boxes.get_title(loc="left") == "Boxes (best 0.0 in epoch 1)"
    assert boxes.get_ylim()[0] == 0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "top1_fraction": 0.5}],
        [
            {"epoch": 1, "train_loss": float("nan"), "top1_fraction": None},
            {"epoch": 2, "train_loss": 1.0, "top1_fraction": ""},
        ],
        [{"epoch": 0.5, "learning_rate": 0.0, "train_loss": float("inf"), "val_loss": 1.0}],
        [{"kind": "train", "epoch": 0.5, "learning_rate": 0.0, "loss": 1.0}],
    ],
    ids=["none", "one epoch", "gaps", "infinite", "one step"],
)
def test_learning_curves_take_rows_with_gaps(rows: list[dict], tmp_path: Path) -> None:
    plot_learning_curves(rows, tmp_path / "curves.png", scores=SCORES, caption="scenes")
    assert _pixels(tmp_path / "curves.png").shape[1] > 800


@pytest.mark.parametrize("classes", [2, 11, 29, 61, 1000])
def test_a_confusion_matrix_of_any_number_of_classes_is_a_picture_a_screen_can_show(
    classes: int, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 2, (classes, classes)) * generator.integers(0, 2, (classes, classes))
    counts[1] = 0
    names = [f"a ${label}$ class with quite a long name {label}" for label in range(classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(counts, names, tmp_path / "confusion.png")
    height, width, _ = _pixels(tmp_path / "confusion.png").shape
    assert 300 < height < 3000
    assert 300 < width < 3500
    assert width > classes


def test_a_confusion_matrix_colors_a_cell_by_its_share_of_the_true_class(tmp_path: Path) -> None:
    plot_confusion([[5, 0], [0, 7]], ["left", "right"], tmp_path / "right.png")
    plot_confusion([[0, 5], [7, 0]], ["left", "right"], tmp_path / "wrong.png")
    right, wrong = _pixels(tmp_path / "right.png"), _pixels(tmp_path / "wrong.png")

    def darkness(pixels: np.ndarray, row: float, column: float) -> float:
        height, width, _ = pixels.shape
        return 255 - pixels[int(row * height), int(column * width)].mean()

    assert darkness(right, 0.15, 0.25) > 100 > 30 > darkness(right, 0.15, 0.75)
    assert darkness(wrong, 0.15, 0.25) < 30 < 100 < darkness(wrong, 0.15, 0.75)


def test_a_contact_sheet_holds_every_image_with_its_own_pixels(tmp_path: Path) -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (17, 170, 170), (120, 60, 5)]
    images: list = [np.full((8, 8, 3), color, dtype=np.uint8) for color in colors[:3]]
    images += [Image.new("RGB", (500, 31), color) for color in colors[3:]]
    contact_sheet(images, [f"name {number}\nsecond line" for number in range(5)], tmp_path / "sheet.png", columns=3)
    sheet = _pixels(tmp_path / "sheet.png")
    for color in colors:
        assert _has_color(sheet, color)
    red = np.argwhere(np.abs(sheet - np.array(colors[0])).max(axis=-1) <= 3)
    blue = np.argwhere(np.abs(sheet - np.array(colors[2])).max(axis=-1) <= 3)
    brown = np.argwhere(np.abs(sheet - np.array(colors[4])).max(axis=-1) <= 3)
    assert red[:, 1].max() < blue[:, 1].min()
    assert red[:, 0].max() < brown[:, 0].min()
    assert len(red) == 176**2, "a small image is enlarged by a whole factor"


@pytest.mark.parametrize("size", [(1, 1), (1, 977), (977, 1), (3, 5)])
def test_a_contact_sheet_takes_images_of_any_shape_and_titles_of_any_length(
    size: tuple[int, int], tmp_path: Path
) -> None:
    contact_sheet([Image.new("L", size, 77)], ["\N{GREEK SMALL LETTER GAMMA}" * 500], tmp_path / "sheet.png")
    assert _has_color(_pixels(tmp_path / "sheet.png"), (77, 77, 77))


def test_a_contact_sheet_refuses_titles_that_do_not_match_the_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as many titles as images"):
        contact_sheet([Image.new("RGB", (5, 5))], ["one", "two"], tmp_path / "sheet.png")
