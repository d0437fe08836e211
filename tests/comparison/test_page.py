"""The page and the figure: self-contained, well-formed, and showing what was measured."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from comparison.made_up import TOP1, made_up, made_up_detectors
from gcnet.comparison import figures
from gcnet.comparison.figures import cost_svg, curve_summary, curves_svg, render_figure, score_svg
from gcnet.comparison.page import render_comparison
from gcnet.comparison.report import FILES, write_report
from gcnet.comparison.results import Comparison
from gcnet.visualization.style import BASELINE_COLOR, INK

CASES = [
    pytest.param(made_up(), id="three seeds and control"),
    pytest.param(made_up(seeds=1, control=False), id="one seed"),
    pytest.param(made_up(blocks=("gc",), control=False), id="one block"),
    pytest.param(replace(made_up(), costs={}, pictures=()), id="no costs and no pictures"),
    pytest.param(
        replace(made_up(), runs=tuple(replace(r, curve=r.curve[-1:]) for r in made_up().runs)), id="one epoch"
    ),
    pytest.param(made_up_detectors(), id="detectors"),
    pytest.param(made_up_detectors(seeds=1, control=False), id="detectors, one seed"),
]


class _Tags(HTMLParser):
    """Checks that tags are closed in order, and collects what could reach for the network."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("comparison", CASES)
def test_the_page_is_well_formed_and_needs_no_network(comparison: Comparison) -> None:
    page = render_comparison(comparison)
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert not tags.tags & {"script", "link", "iframe"}
    assert not re.search(r"(src|href)=.https?:|@import|url\((?!#)", page)
    assert "nan" not in re.sub(r"<[^>]*base64[^>]*>", "", page)


def test_the_page_follows_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in render_comparison(made_up())


def test_names_of_the_user_cannot_break_the_page() -> None:
    page = render_comparison(replace(made_up(), data="<b>&", about={"network": "<script>alert(1)</script>"}))
    assert "<script>" not in page and "&lt;b&gt;&amp;" in page


def test_the_page_has_data_model_recipe_machine_date_and_seeds() -> None:
    page = render_comparison(made_up())
    assert all(word in page for word in ("scenes", "tiny_net", "sgd &lt;0.1&gt;", "3 seeds", "2026-01-02", "torch"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are rendered as SVG."""
    figures_drawn: list[Figure] = []
    monkeypatch.setattr(figures, "figure_svg", lambda figure, _: figures_drawn.append(figure) or "<svg></svg>")
    return figures_drawn


@pytest.mark.parametrize("comparison", CASES)
def test_the_charts_are_xml_without_ids_in_common(comparison: Comparison) -> None:
    charts = [
        score_svg(comparison),
        curves_svg(comparison),
        cost_svg(comparison, "cost", {"none": 3.0, "gc": 5.0}, "ms"),
    ]
    ids = [
        {element.attrib["id"] for element in ElementTree.fromstring(chart).iter() if "clip" in element.tag.lower()}
        for chart in filter(None, charts)
    ]
    assert sum(map(len, ids)) == len(set().union(*ids))


def test_the_charts_take_the_colors_of_the_page_and_are_reproducible() -> None:
    chart = score_svg(made_up())
    assert "currentColor" in chart and "var(--line)" in chart and INK not in chart
    assert chart == score_svg(made_up())


def test_each_seed_has_a_dot_at_its_score_and_its_difference(drawn: list[Figure]) -> None:
    score_svg(made_up())
    axes = drawn[0].axes[0]
    dots = sorted(x for collection in axes.collections for x, _ in collection.get_offsets())
    assert dots == pytest.approx(sorted(100 * value for block in TOP1["main"].values() for value in block))
    differences = [text.get_text() for text in axes.texts]
    assert differences[0] == "" and differences[2].startswith("+19.5")


def test_learning_curves_are_the_means_over_seeds() -> None:
    curve = curve_summary(made_up(), "gc")
    assert curve.epochs == (1, 2, 3, 4, 5)
    assert curve.means[-1] == pytest.approx(100 * 0.905)
    assert (curve.lows[-1], curve.highs[-1]) == pytest.approx((90, 91))


def test_one_point_is_no_curve() -> None:
    single = replace(made_up(blocks=("gc",), control=False))
    single = replace(single, runs=tuple(replace(run, curve=run.curve[-1:]) for run in single.runs))
    assert curves_svg(single) == ""


def test_of_many_blocks_each_has_a_panel_with_the_baseline(drawn: list[Figure]) -> None:
    comparison = made_up(control=False)
    runs = [replace(run, block=block) for block in ("ge", "ese") for run in comparison.runs if run.block == "gc"]
    curves_svg(replace(comparison, blocks=(*comparison.blocks, "ge", "ese"), runs=(*comparison.runs, *runs)))
    panels = [axes for axes in drawn[0].axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in panels] == ["se", "gc", "ge", "ese"]
    assert all(axes.lines[0].get_color() == BASELINE_COLOR for axes in panels)


def test_cost_bars_start_at_zero_and_give_the_ratio_to_the_baseline(drawn: list[Figure]) -> None:
    cost_svg(made_up(), "Training step", {"none": 4.0, "gc": 6.0}, "ms")
    axes = drawn[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [4.0, 6.0]
    assert [text.get_text().strip() for text in axes.texts] == ["4 ms", "6 ms (1.50x)"]


@pytest.mark.parametrize("comparison", CASES)
def test_the_figure_is_a_picture_of_readable_size(comparison: Comparison) -> None:
    image = Image.open(io.BytesIO(render_figure(comparison)))
    assert image.format == "PNG" and image.width >= 1600
    assert len(image.convert("RGB").getcolors(1_000_000) or []) > 20


def test_all_files_are_written(tmp_path: Path) -> None:
    assert [path.name for path in write_report(made_up(), tmp_path)] == list(FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
