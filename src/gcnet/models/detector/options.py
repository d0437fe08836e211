"""Validation of detector options."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gcnet.errors import UserError, unknown
from gcnet.models.detector.backbone import NORMS
from gcnet.models.detector.conventions import NUMERICS

HEADS = ("2fc", "4conv1fc")
"""Of the boxes: two linear layers; or four convolutions and a linear layer, with batch norms in all heads."""

_LARGEST_SHORT_SIDE = 10_000


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what `build_mask_rcnn` does not know or cannot use.

    Raises:
        UserError: an unknown option, or a value that it cannot have.
    """
    for name, value in options.items():
        if name not in _CHECKS:
            raise unknown("option of a detector", name, _CHECKS)
        _CHECKS[name](name, value)


def _one_of(valid: Iterable[str]) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if value not in tuple(valid):
            raise unknown(name, str(value), valid)

    return check


def _check_whole(name: str, value: object) -> None:
    if not _is_positive(value, int):
        raise UserError(f"{name} is a whole number, at least 1; found {value}")


def _check_epsilon(name: str, value: object) -> None:
    if value != 0 and not _is_positive(value, int | float):
        raise UserError(f"{name} is added to variances, at least 0; found {value}")


def _check_size(name: str, value: object) -> None:
    sides = list(value) if isinstance(value, tuple | list) else []
    if len(sides) != 2 or not all(_is_positive(side, int) for side in sides) or sides[0] > sides[1]:
        raise UserError(f"{name} is a short and a long side in whole pixels, found {value}")
    if sides[0] > _LARGEST_SHORT_SIDE:
        raise UserError(f"the short side of {name} is at most {_LARGEST_SHORT_SIDE:,} pixels, found {sides[0]}")


def _check_sides(name: str, value: object) -> None:
    sides = list(value) if isinstance(value, tuple | list) else []
    if value is not None and not (sides and all(_is_positive(side, int | float) for side in sides)):
        raise UserError(f"{name} are pixels above 0, one for each level, found {value}")


def _is_positive(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


_CHECKS: Mapping[str, Callable[[str, object], None]] = {
    "numerics": _one_of(NUMERICS),
    "norm": _one_of(NORMS),
    "norm_eps": _check_epsilon,
    "heads": _one_of(HEADS),
    "image_size": _check_size,
    "anchor_sides": _check_sides,
    "regions": _check_whole,
    "detections_per_image": _check_whole,
    "width": _check_whole,
    "hidden": _check_whole,
}
