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
    """Return the channels of a bottleneck, C/r rounded down (with a tolerance for inexact ratios).

    Args:
        channels: C of the maps.
        ratio: r, at least 1.

    Raises:
        UserError: a ratio below 1 or above `channels`.
    """
    if not isinstance(ratio, Real):
        raise UserError(f"`ratio` must be a number, found {ratio!r}")
    if not ratio > 0:
        raise UserError(f"`ratio` must be above 0, found {ratio:g}")
    if ratio < 1:  # mmcv's argument is the inverse.
        raise UserError(
            f"`ratio` must be at least 1, found {ratio:g}: the bottleneck has channels / ratio channels; mmcv's "
            "ratio=1/16 is ratio=16 here"
        )
    width = math.floor(channels / ratio + 1e-9)
    if width < 1:
        raise UserError(f"`ratio` must be at most the channels: {channels} channels / ratio {ratio:g} leave none")
    return width


def inner_channels(channels: int, reduction: int) -> int:
    """Return C' of a non-local block, C/reduction rounded down, and at least 1.

    Args:
        channels: C of the maps.
        reduction: a whole number, at least 1.
    """
    return max(channels // check_integer("reduction", reduction), 1)


def check_integer(option: str, value: float, least: int = 1) -> int:
    """Return an option's value as an integer.

    Args:
        option: name of the option, for the error.
        value: its value.
        least: smallest valid value.

    Raises:
        UserError: not a whole number, or below `least`.
    """
    if not isinstance(value, Real) or not least <= value < math.inf or value != int(value):
        raise UserError(f"`{option}` must be a whole number, at least {least}; found {value!r}")
    return int(value)


def check_divides(option: str, value: float, channels: int, *, least: int = 1, most: int | None = None) -> int:
    """Return an option's value as an integer that divides the channels.

    Args:
        option: name of the option, for the error.
        value: number of equal parts of the channels.
        channels: C of the maps.
        least: fewest channels of a part.
        most: most parts; None for any number.

    Raises:
        UserError: the value does not divide the channels; the message names the nearest that does.
    """
    count = check_integer(option, value)
    if most is not None and count > most:
        raise UserError(f"`{option}` must be at most {most}, found {count}")
    if channels % count or channels // count < least:
        highest = min(channels // least, most or channels)
        valid = [number for number in range(1, highest + 1) if channels % number == 0]
        nearest = min(valid, key=lambda number: abs(number - count), default="none")
        rule = f"{option} must divide the channels" + (f" into parts of at least {least}" if least > 1 else "")
        raise UserError(f"{rule}: {channels} channels, {option} {count}; the nearest that does is {nearest}")
    return count


def check_choice(option: str, value: str, choices: dict[str, Any]) -> Any:
    """Return the choice of a name.

    Args:
        option: name of the option, for the error.
        value: name of the choice.
        choices: choices by name.

    Raises:
        UserError: an unknown name.
    """
    if value not in list(choices):
        raise unknown(option, str(value), choices)
    return choices[value]


def check_eps(norm_eps: float) -> None:
    """Check that `norm_eps` is a finite number of 0 or more.

    Raises:
        UserError: it is not.
    """
    if not 0 <= norm_eps < math.inf:
        raise UserError(f"`norm_eps` must be 0 or more, found {norm_eps}")


def check_types(builder: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Check numbers and booleans against the annotations of a builder.

    Args:
        builder: builder of a block.
        options: values by name.

    Raises:
        UserError: a value of another type.
    """
    hints = get_type_hints(builder)
    for option, value in options.items():
        kinds = get_args(hints[option]) or (hints[option],)
        if bool in kinds and value not in (True, False):
            raise UserError(f"`{option}` must be True or False, found {value!r}")
        optional = value is None and NoneType in kinds
        if {int, float}.intersection(kinds) and not optional and not isinstance(value, Real):
            raise UserError(f"`{option}` must be a number, found {value!r}")


def sigmoid_scale(identity_init: bool) -> nn.Module:
    """Return the sigmoid gate of a block: as published, or doubled (`identity_init`), so that it is one at zero."""
    return DoubledScale() if identity_init else Scale()
