"""The scripts that draw the figures of the documentation."""

from pathlib import Path

import pytest
from PIL import Image

from docs import attention_picture, pictures


def test_figures_are_drawn_from_the_recorded_results(tmp_path: Path) -> None:
    for name, draw in (
        ("scenes", pictures.draw_scenes),
        (
            "nuclei",
            lambda path: pictures.draw_nuclei(pictures.rows("nuclei256"), pictures.rows("nuclei256-loss"), path),
        ),
        ("eight", lambda path: pictures.draw_coco_eight(pictures.rows("coco-eight"), path)),
    ):
        path = tmp_path / f"{name}.png"
        draw(path)
        with Image.open(path) as image:
            assert min(image.size) > 300, name


def test_every_figure_of_the_results_has_recorded_results() -> None:
    recorded = {path.stem for path in pictures.RESULTS.iterdir() if path.suffix in (".json", ".csv")}
    assert {path.stem for path in pictures.RESULTS.glob("*.png")} - recorded == {"nuclei256-examples"}


@pytest.mark.slow
def test_the_attention_picture_is_drawn_after_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = attention_picture.train(limit_train=16, limit_val=8, steps=1, batch_size=16, output="run")
    attention_picture.main(run, tmp_path / "attention.png", measured=4)
    with Image.open(tmp_path / "attention.png") as image:
        assert image.width > 1000
