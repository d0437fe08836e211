"""What was put where: one place a block, one insertion a call."""

from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Place:
    """One inserted block: the module whose output it acts on, or the residual block that runs it.

    Args:
        name: of the module; the block is its child `context`.
        channels: C of what the block sees.
        parameters: added by the block.
        form: "map", (N, C, *S); "channels-last map", (N, *S, C); or "tokens", (N, P, C).
    """

    name: str
    channels: int
    parameters: int
    form: str = "map"


@dataclass(frozen=True)
class Insertion:
    """What one call of `insert` put where; `str()` says it in one line.

    Args:
        block: its name.
        position: within residual blocks, such as "after_norm"; None where the block acts on a module's output.
        places: in the order of the network.
        ratio: the paper's r, where the block has one and it is not the block's own.
    """

    block: str
    position: str | None
    places: tuple[Place, ...]
    ratio: float | None = None

    @property
    def parameters(self) -> int:
        """Parameters added in all."""
        return sum(place.parameters for place in self.places)

    def __str__(self) -> str:
        groups = groupby(self.places, lambda place: (place.name.rpartition(".")[0], place.channels, place.form))
        said = [self._group(parent, channels, form, list(places)) for (parent, channels, form), places in groups]
        count = len(self.places)
        if self.position is None:
            ratio = "" if self.ratio is None else f"with ratio {self.ratio:g} "
            where = f"{ratio}on the output of {count} module{'s' if count > 1 else ''}"
        else:
            where = f"{self.position} in {count} residual blocks"
        return f"{self.block} {where}: {'; '.join(said)}; {self.parameters:,} parameters added"

    def _group(self, parent: str, channels: int, form: str, places: list[Place]) -> str:
        names = ", ".join(place.name.rpartition(".")[2] for place in places)
        words = f"{channels} channels" if form == "map" else f"{form} of {channels} channels"
        if self.position is not None:
            return f"{parent} blocks {names} ({words})"
        return f"{parent}: {names} ({words})" if parent else f"{names} ({words})"
