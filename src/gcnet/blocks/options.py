"""Validation of block options: widths, divisors, choices."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from types import NoneType
from typing import Any, get_args, get_type_hints

from torch import nn

from gcnet.errors import UserError, unknown
from gcnet.framework.fusion import DoubledScale, Scale


def bottleneck_width(channels: int, ratio: float) -> int:
    """Channels of the bottleneck: C/r, rounded down (the tolerance undoes the rounding of an inexact ratio)."""
    if not isinstance(ratio, Real):
        raise UserError(f"ratio must be a number, found {ratio!r}")
    if not ratio > 0:
        raise UserError(f"ratio must be above 0, found {ratio:g}")
    if ratio < 1:  # mmcv's argument is the inverse.
        raise UserError(
            f"ratio r gives channels / r in the bottleneck, so it is at least 1, found {ratio:g}; mmcv's ratio=1/16 is "
            "ratio=16 here"
        )
    width = math.floor(channels / ratio + 1e-9)
    if width < 1:
        raise UserError(f"ratio must be at most the channels: {channels} channels / ratio {ratio:g} leave none")
    return width


def inner_channels(channels: int, reduction: int) -> int:
    """C' of a non-local block: C/reduction rounded down, and at least 1."""
    return max(channels // whole("reduction", reduction), 1)


def whole(option: str, value: float, least: int = 1) -> int:
    """The value as a whole number of at least `least`."""
    if not isinstance(value, Real) or not least <= value < math.inf or value != int(value):
        raise UserError(f"{option} must be a whole number from {least} up, found {value!r}")
    return int(value)


def parts(option: str, value: float, channels: int, *, least: int = 1, most: int | None = None) -> int:
    """Into how many equal parts the channels are cut, each of at least `least` channels, `most` in all."""
    count = whole(option, value)
    if most is not None and count > most:
        raise UserError(f"{option} must be at most {most}, found {count}")
    if channels % count or channels // count < least:
        highest = min(channels // least, most or channels)
        valid = [number for number in range(1, highest + 1) if channels % number == 0]
        nearest = min(valid, key=lambda number: abs(number - count), default="none")
        rule = f"{option} must divide the channels" + (f" into parts of at least {least}" if least > 1 else "")
        raise UserError(f"{rule}: {channels} channels, {option} {count}; the nearest that does is {nearest}")
    return count


def choose(option: str, value: str, choices: dict[str, Any]) -> Any:
    """What the name stands for."""
    if value not in list(choices):
        raise unknown(option, str(value), choices)
    return choices[value]


def check_eps(norm_eps: float) -> None:
    """Refuse what would make a norm divide by zero or by the root of a negative number."""
    if not 0 <= norm_eps < math.inf:
        raise UserError(f"norm_eps must be 0 or more, found {norm_eps}")


def check_kinds(builder: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Refuse values that are no numbers, or not True or False, where the builder's annotations say so."""
    hints = get_type_hints(builder)
    for option, value in options.items():
        kinds = get_args(hints[option]) or (hints[option],)
        if bool in kinds and value not in (True, False):
            raise UserError(f"{option} must be True or False, found {value!r}")
        optional = value is None and NoneType in kinds
        if {int, float}.intersection(kinds) and not optional and not isinstance(value, Real):
            raise UserError(f"{option} must be a number, found {value!r}")


def sigmoid_scale(identity_init: bool) -> nn.Module:
    """The gate of a block: published, a half at a term of zero; or twice that, with which it starts as the identity."""
    return DoubledScale() if identity_init else Scale()
