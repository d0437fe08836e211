"""Arguments in messages are rendered as flags."""

import pytest

from gcnet.arguments import Argument
from gcnet.cli.wording import with_flags


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("`weights` must be a file, found runs", "--weights must be a file, found runs"),
        ("no weights are published: give `weights=FILE`", "no weights are published: give --weights FILE"),
        ("plots need `plots=True`, not `plots=False`", "plots need --plots, not --no-plots"),
        ("`gcnet.resume(runs/first)` trains on", "gcnet train --resume runs/first trains on"),
        ("see `gcnet.check_data(photos)`", "see gcnet check-data photos"),
        ("`gcnet.check_data(photos, max_listed=2)` lists", "gcnet check-data photos --max-listed 2 lists"),
        ("heads must divide the channels", "heads must divide the channels"),
        ("`heads=2` of `gcnet blocks`", "heads=2 of gcnet blocks"),
    ],
)
def test_arguments_in_backticks_are_rendered_as_flags(sentence: str, expected: str) -> None:
    arguments = [Argument("weights", str, None, ""), Argument("plots", bool, True, "")]
    assert with_flags(sentence, arguments) == expected
