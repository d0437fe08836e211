"""Colors of blocks are fixed, captions complete, labels of lines do not overlap."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from gcnet.blocks import BLOCKS
from gcnet.visualization.style import BASELINE_COLOR, block_color, figure_caption, figure_svg, folder_title, label_lines


def test_every_block_has_a_color_of_its_own_and_the_baseline_is_gray() -> None:
    colors = {block_color(block) for block in BLOCKS}
    assert len(colors) == len(BLOCKS)
    assert block_color("none") == BASELINE_COLOR not in colors


def test_options_are_a_shade_of_the_color_of_their_block_and_unknown_blocks_have_a_color() -> None:
    assert block_color("gc:heads=4") not in (block_color("gc"), block_color("gc:ratio=4"))
    assert block_color("toy") == block_color("toy")
    assert re.fullmatch("#[0-9a-f]{6}", block_color("toy"))


def test_a_caption_skips_empty_parts_and_ends_with_the_date() -> None:
    assert figure_caption("scenes", "", "gc_resnet18", date="2026-01-02").split("  \N{MIDDLE DOT}  ") == [
        "scenes",
        "gc_resnet18",
        "2026-01-02",
    ]
    assert re.fullmatch(r"scenes  .  \d{4}-\d\d-\d\d", figure_caption("scenes"))


def test_labels_of_lines_at_the_same_height_do_not_overlap() -> None:
    axes = Figure().subplots()
    axes.plot([0, 1], [0, 1])
    label_lines(axes, [(1.0, 0.5, f"block {number}", "red") for number in range(5)], height=3.0)
    heights = sorted(text.xyann[1] for text in axes.texts)  # ty: ignore[missing-attribute]
    low, high = axes.get_ylim()
    steps = [upper - lower for lower, upper in zip(heights, heights[1:], strict=False)]
    assert min(steps) >= 0.99 * 0.17 * (high - low) / 3


def test_a_figure_as_svg_is_reproducible() -> None:
    figures = [Figure() for _ in range(2)]
    for figure in figures:
        figure.subplots().plot([0, 1], [0, 1])
    first, second = (figure_svg(figure, "label") for figure in figures)
    assert first == second and first.startswith("<svg")


def test_images_of_several_folders_have_the_title_of_their_common_folder() -> None:
    assert folder_title(["/data/photos/val/cat/1.jpg", "/data/photos/val/dog/2.jpg"]) == "photos/val"
    assert folder_title([Path("/data/photos/val/cat/1.jpg")]) == "val/cat"
    assert folder_title(["/a/1.jpg", "/b/2.jpg"]) == ""
