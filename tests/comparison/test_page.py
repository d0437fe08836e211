"""The page and the figure: self-contained, well-formed, and showing what was measured."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from comparison.made_up import made_up, made_up_detectors
from gcnet.comparison.charts import Axis, colours, cost_chart, curves_chart, round_step, score_chart
from gcnet.comparison.figure import render_figure
from gcnet.comparison.page import render_page
from gcnet.comparison.report import FILES, write_report
from gcnet.comparison.results import Comparison

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
    page = render_page(comparison)
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert not tags.tags & {"script", "link", "iframe"}
    assert "http" not in page and "@import" not in page and "url(" not in page
    assert "nan" not in re.sub(r"<[^>]*base64[^>]*>", "", page)


def test_the_page_follows_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in render_page(made_up())


def test_what_the_user_names_cannot_break_the_page() -> None:
    page = render_page(replace(made_up(), data="<b>&", about={"network": "<script>alert(1)</script>"}))
    assert "<script>" not in page and "&lt;b&gt;&amp;" in page


def test_the_page_says_data_model_recipe_machine_date_and_seeds() -> None:
    page = render_page(made_up())
    assert all(word in page for word in ("scenes", "tiny_net", "sgd &lt;0.1&gt;", "3 seeds", "2026-01-02", "torch"))


@pytest.mark.parametrize("comparison", CASES)
def test_the_charts_are_xml_and_stay_in_their_frame(comparison: Comparison) -> None:
    charts = [score_chart(comparison), curves_chart(comparison)]
    charts.append(cost_chart(comparison, "cost", {"none": 3.0, "gc": 5.0}.get, "ms"))
    for chart in filter(None, charts):
        tree = ElementTree.fromstring(chart)
        width = float(tree.attrib["viewBox"].split()[2])
        assert all(0 <= float(circle.attrib["cx"]) <= width for circle in tree.iter("circle"))


def test_a_dot_stands_where_its_accuracy_is_on_the_axis() -> None:
    tree = ElementTree.fromstring(score_chart(made_up()))
    ticks = {text.text: float(text.attrib["x"]) for text in tree.iter("text") if text.attrib["class"] == "tick"}
    at = ticks["70 %"]
    per_percent = (ticks["80 %"] - at) / 10
    dots = sorted(float(circle.attrib["cx"]) for circle in tree.iter("circle"))
    assert dots[0] == pytest.approx(at, abs=0.11)
    assert dots[-1] == pytest.approx(at + 21 * per_percent, abs=0.11)


def test_the_charts_of_detectors_are_in_mask_ap_without_a_unit() -> None:
    comparison = made_up_detectors()
    for chart in (score_chart(comparison), curves_chart(comparison)):
        tree = ElementTree.fromstring(chart)
        ticks = [text.text or "" for text in tree.iter("text") if text.attrib["class"] == "tick"]
        assert "mask ap" in tree.attrib["aria-label"].lower()
        assert len(ticks) > 4 and not any("%" in tick for tick in ticks)
    page = render_page(comparison)
    assert "<h2>Mask AP</h2>" in page and "difference to it in points of AP" in page
    assert "top-1" not in page and "ccuracy" not in page


def test_bars_of_a_cost_are_as_long_as_the_cost() -> None:
    chart = cost_chart(made_up(), "time", {"none": 2.0, "se": 3.0, "gc": 4.0}.get, "ms")
    widths = [float(bar.attrib["width"]) for bar in ElementTree.fromstring(chart).iter("rect")]
    assert widths[1] / widths[0] == pytest.approx(1.5, rel=0.01)
    assert widths[2] / widths[0] == pytest.approx(2, rel=0.01)
    assert "(2.00x)" in chart


def test_ticks_are_round_and_within_the_axis() -> None:
    assert [round_step(value) for value in (0.7, 1.0, 1.1, 3.0, 7.0, 0.02)] == [1, 1, 2, 5, 10, 0.02]
    assert Axis(61, 99, 0, 1).ticks(4) == [70, 80, 90]


def test_every_block_has_a_colour_of_its_own_and_none_is_grey() -> None:
    found = colours(("none", "se", "gc", "snl"))
    assert len(set(found.values())) == 4
    assert colours(("gc", "none"))["none"] == found["none"]


@pytest.mark.parametrize("comparison", CASES)
def test_the_figure_is_a_picture_of_readable_size(comparison: Comparison) -> None:
    image = Image.open(io.BytesIO(render_figure(comparison)))
    assert image.format == "PNG" and image.width >= 1600
    assert len(image.convert("RGB").getcolors(1_000_000) or []) > 20


def test_all_files_are_written(tmp_path: Path) -> None:
    assert [path.name for path in write_report(made_up(), tmp_path)] == list(FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
