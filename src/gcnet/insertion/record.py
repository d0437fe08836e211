"""Records of insertions, in memory and in model files, validated before anything is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from itertools import groupby
from typing import Any

from gcnet.blocks import BLOCKS, check_options, find_builder
from gcnet.errors import UserError, printable
from gcnet.insertion.layout import Layout
from gcnet.insertion.residual_blocks.position import POSITIONS


@dataclass(frozen=True)
class Site:
    """One inserted block: the module with the block on its output, or the residual block that runs it.

    Attributes:
        name: of the module; the block is its child `context`.
        channels: C of the block's input.
        parameters: parameters added by the block.
        form: "map", (N, C, *S); "channels-last map", (N, *S, C); or "tokens", (N, P, C).
        is_fused: whether `gcnet.fuse` computes the block before the last convolution; None if the network is not fused.
        obstacle: why it does not, or an empty string.
    """

    name: str
    channels: int
    parameters: int
    form: str = "map"
    is_fused: bool | None = None
    obstacle: str = ""


@dataclass(frozen=True)
class Insertion:
    """Result of one call of `insert`; `str()` summarizes it in one line.

    Attributes:
        block: name of the block.
        position: position in residual blocks, such as "after_norm"; None if the blocks act on outputs of modules.
        sites: in network order.
        ratio: the paper's r; None if the block has none or its own default was used.
    """

    block: str
    position: str | None
    sites: tuple[Site, ...]
    ratio: float | None = None

    @property
    def parameters(self) -> int:
        """Number of added parameters."""
        return sum(site.parameters for site in self.sites)

    def __str__(self) -> str:
        groups = groupby(self.sites, lambda site: (site.name.rpartition(".")[0], site.channels, site.form))
        parts = [self._group(parent, channels, form, list(sites)) for (parent, channels, form), sites in groups]
        count = len(self.sites)
        if self.position is None:
            ratio = "" if self.ratio is None else f"with ratio {self.ratio:g} "
            where = f"{ratio}on the output of {count} module{'s' if count > 1 else ''}"
        else:
            where = f"{self.position} in {count} residual blocks"
        return f"{self.block} {where}: {'; '.join(parts)}; {self.parameters:,} parameters added{self._fusion()}"

    def _fusion(self) -> str:
        if all(site.is_fused is None for site in self.sites):
            return ""
        others: dict[str, list[str]] = {}
        for site in self.sites:
            if not site.is_fused:
                others.setdefault(site.obstacle, []).append(site.name)
        reasons = "".join(f"; not fused: {', '.join(names)} ({reason})" for reason, names in others.items())
        return f"; {sum(bool(site.is_fused) for site in self.sites)} of {len(self.sites)} fused{reasons}"

    def _group(self, parent: str, channels: int, form: str, sites: list[Site]) -> str:
        names = ", ".join(site.name.rpartition(".")[2] for site in sites)
        words = f"{channels} channels" if form == "map" else f"{form} of {channels} channels"
        if self.position is not None:
            return f"{parent} blocks {names} ({words})"
        return f"{parent}: {names} ({words})" if parent else f"{names} ({words})"


_MOST_OF_A_NAME = 60
_KINDS: dict[Any, str] = {int: "a whole number, at least 0", bool: "true or false", str: "a name"}
_LARGEST = 2**24  # of a number of channels, heads or slots: far beyond any block


def check_record(record: object) -> None:
    """Check one record of `insertion_records` read from a file.

    Args:
        record: one call of `insert`.

    Raises:
        UserError: `insertion_records` cannot have written it.
    """
    if not isinstance(record, Mapping):
        raise _damaged("an insertion", "an object", record)
    for key, (fits, expected) in _FIELDS.items():
        if key not in record:
            raise UserError(f'the record of an insertion has no "{key}": the file is damaged or was edited')
        if not fits(record[key]):
            raise _damaged(key, expected, record[key])
    if not record["custom"]:
        if record["block"] not in BLOCKS:
            raise _damaged("block", "a name of gcnet.list_blocks()", record["block"])
        check_options(record["block"], dict(record["options"]))
        _check_values(record["block"], record["options"])
    if "places" in record:  # files of early versions, for ResNets only, have none
        _check_places(record["places"])


def _check_places(sites: object) -> None:
    if not isinstance(sites, Sequence) or isinstance(sites, str) or not sites:
        raise _damaged("places", "a list of sites", sites)
    known = {field.name: type(field.default) for field in fields(Layout)} | {"name": str, "channels": int}
    for site in sites:
        if not isinstance(site, Mapping) or not {"name", "channels"} <= set(site) <= set(known):
            raise _damaged("a site", f"an object of {', '.join(known)}", site)
        for key, value in site.items():
            if type(value) is not known[key] or not 0 <= (value if isinstance(value, int) else 0) <= _LARGEST:
                raise _damaged(f"{key} of a site", _KINDS[known[key]], value)
        if site["channels"] < 1 or not 1 <= site.get("dims", 2) <= 3:
            raise _damaged("a site", "1 channel or more and 1 to 3 axes", site)
    names = [site["name"] for site in sites]
    if len(set(names)) < len(names):
        raise _damaged("places", "unique sites", names)


def _check_values(block: str, options: Mapping[str, Any]) -> None:
    """Raise UserError for a value of another type than the option's default."""
    parameters = signature(find_builder(block)).parameters
    for name, value in options.items():
        default = parameters[name].default
        if default is Parameter.empty or default is None:
            fits = value is None or _is_number(value)
        elif isinstance(default, bool | str):
            fits = type(value) is type(default)
        else:
            fits = _is_number(value)
        if not fits:
            raise _damaged(f"the option {name} of {block}", f"a value such as {default}", value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_whole_list(value: object) -> bool:
    return value is None or (isinstance(value, list | tuple) and all(type(item) is int for item in value))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "block": (lambda value: isinstance(value, str), "a name"),
    "custom": (lambda value: isinstance(value, bool), "true or false"),
    "ratio": (lambda value: value is None or (_is_number(value) and value > 0), "a number above 0 or null"),
    "stages": (_is_whole_list, "a list of whole numbers or null"),
    "blocks": (_is_whole_list, "a list of whole numbers or null"),
    "position": (lambda value: value is None or value in POSITIONS, f"null or one of {', '.join(POSITIONS)}"),
    "options": (lambda value: isinstance(value, Mapping), "an object"),
}


def _damaged(what: str, expected: str, found: object) -> UserError:
    text = printable(repr(found))
    shown = text if len(text) <= _MOST_OF_A_NAME else f"{text[:_MOST_OF_A_NAME]}..."
    return UserError(
        f"the record of an insertion is invalid: {what} must be {expected}, found {shown}; the file is damaged or "
        "was edited"
    )
