"""What is put into one network of a comparison: a block, its options, and where it goes if not where all go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gcnet.blocks import BLOCKS, Builder
from gcnet.errors import UserError, unknown
from gcnet.report.results import BASELINE


@dataclass(frozen=True)
class Variant:
    """A block as one network of a comparison has it.

    Attributes:
        block: its name, or a builder of the user's own (`channels -> module`); None is the network as it is.
        options: of the block, `NAME=VALUE` each, as in `NetworkSettings.options`.
        placement: of ratio, stages, blocks, position and at, what differs from the rest of the comparison.
    """

    block: str | Builder | None
    options: tuple[str, ...] = ()
    placement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether it is made by a builder of the user's own."""
        return callable(self.block)

    def described(self) -> dict[str, Any]:
        """Itself as plain values; of a builder of the user's own, its name."""
        block = getattr(self.block, "__name__", repr(self.block)) if self.is_own else self.block
        return {"block": block, "options": list(self.options), **self.placement}


def read_variant(text: str) -> Variant:
    """An entry of `--blocks`: a block's name, and its options behind colons, as in `gc:pooling=average:fusion=scale`.

    Raises:
        UserError: an unknown block, or an option without a value.
    """
    name, *options = text.split(":")
    valid = (BASELINE, *BLOCKS)
    if name not in valid:
        raise unknown("block", name, valid)
    if name == BASELINE and options:
        raise UserError(f'{BASELINE} is the network as it is and takes no options, found "{text}"')
    for option in options:
        if "=" not in option:
            raise UserError(
                f'--blocks takes options as NAME=VALUE, as in gc:fusion=scale; found "{option}" in "{text}"'
            )
    ratios = [option.partition("=")[2] for option in options if option.startswith("ratio=")]
    placement = {"ratio": _number(ratios[-1], text)} if ratios else {}
    return Variant(
        None if name == BASELINE else name,
        tuple(option for option in options if not option.startswith("ratio=")),
        placement,
    )


def _number(text: str, entry: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f'ratio is a number, found "{text}" in "{entry}"') from None
