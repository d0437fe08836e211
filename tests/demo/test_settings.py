"""Invalid settings of `gcnet demo` are refused before anything is loaded."""

from typing import Any

import pytest

from gcnet.demo.settings import DemoSettings
from gcnet.errors import UserError


@pytest.mark.parametrize(
    ("models", "values", "message"),
    [
        ((), {}, "`models` takes one or two models, found 0"),
        (("a", "b", "c"), {}, "`models` takes one or two models, found 3"),
        (("a", "a"), {}, "`models` must be different models, found a twice"),
        (("a",), {"port": 70_000}, "`port` must be 0 to 65535, found 70000"),
        (("a",), {"queue": 0}, "`queue` must be at least 1, found 0"),
        (("a",), {"max_bytes": -1}, "`max_bytes` must be at least 1, found -1"),
        (("a",), {"timeout": 0.0}, "`timeout` must be a positive number of seconds, found 0.0"),
        (("a",), {"timeout": float("nan")}, "`timeout` must be a positive number of seconds, found nan"),
    ],
)
def test_an_invalid_setting_is_one_sentence(models: tuple[str, ...], values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        DemoSettings(models, **values)
    assert str(error.value).startswith(message)


def test_only_this_machine_reaches_the_page_unless_another_host_is_given() -> None:
    assert DemoSettings(("a",)).host == "127.0.0.1"
