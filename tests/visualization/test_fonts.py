"""Names in any script are legible on pictures: by an installed font that has the characters, or escaped."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gcnet.visualization import fonts
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.images import contact_sheet
from gcnet.visualization.plots import plot_confusion

CAT = "\u732b"  # in no font of matplotlib's
RARE = "\u0359"  # a combining asterisk: in STIXGeneral, which comes with matplotlib, and not in DejaVu Sans
STIX = Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    caches = (fonts.picture_font, fonts._missing, fonts._font_with, fonts._warn_missing)
    for one in caches:
        one.cache_clear()
    yield
    for one in caches:
        one.cache_clear()


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: iter(()))


@pytest.mark.usefixtures("no_fonts")
def test_characters_without_a_font_are_escaped_with_one_warning() -> None:
    with pytest.warns(UserWarning, match=f'no installed font has the characters "{CAT}"'):
        assert shown_text(f"a {CAT}", 20) == r"a \u732b"
    assert shown_text(CAT, 20) == r"\u732b"  # warnings are errors here: the second time there is none
    assert shown_text("caf\xe9 \u043a\u043e\u0442", 20) == "caf\xe9 \u043a\u043e\u0442"


@pytest.mark.usefixtures("no_fonts")
def test_pictures_with_such_names_draw_without_a_warning_of_matplotlib(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no installed font"):
        plot_confusion(np.eye(2, dtype=np.int64), [CAT, "dog"], tmp_path / "confusion.png")
    contact_sheet([np.zeros((4, 4), dtype=np.uint8)], [CAT], tmp_path / "sheet.png")
    assert {file.name for file in tmp_path.iterdir()} == {"confusion.png", "sheet.png"}


def test_an_installed_font_with_the_characters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: iter((STIX,)))
    assert fonts.legible(RARE) == RARE
    assert fonts.picture_font(13, RARE).getname()[0] == "STIXGeneral"
    figure = Figure()
    FigureCanvasAgg(figure)
    text = figure.text(0, 0, f"x{RARE}")
    fonts.use_fallback_fonts(figure)
    assert text.get_fontfamily()[-1] == "STIXGeneral"
