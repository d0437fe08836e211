"""What the command line asks for; light to import, so that `--help` answers at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
POSITIONS = HERE.parent / "docs" / "results" / "cost-vs-positions.csv"
BLOCKS = HERE.parent / "docs" / "results" / "blocks-resnet50.csv"
BLOCKS_PAGE = HERE.parent / "docs" / "blocks.md"


@dataclass(frozen=True)
class BenchmarkSettings:
    """Measure time and memory against other implementations, print tables and append every row to a CSV."""

    what: Literal["table", "positions", "blocks"] = field(default="table", metadata=POSITIONAL)
    """table: the benchmarks; positions: the cost of every block against the number of positions, as CSV and figure;
    blocks: the cost of every block in ResNet-50, as CSV and as the table of docs/blocks.md."""
    only: str | None = None
    """Names separated by commas: of the table these benchmarks (gc_forward, gc_backward, networks, fused, compiled,
    detector, non_local, doubling, precision, exported, loader), of positions and blocks these blocks; by default
    all."""
    threads: int = 2
    """Threads of torch."""
    repetitions: int | None = None
    """Timed rounds of each comparison, at most (default: 200, with --quick 3)."""
    seconds: float | None = None
    """Time for each comparison, after which no new round begins, but three are timed (default: 60; of blocks 10)."""
    memory: bool = True
    """Also measure the peak memory of each contestant, in a fresh process each; never done of blocks."""
    quick: bool = False
    """Tiny sizes, to see that everything runs; the rows are written only where --output says."""
    output: Path | None = None
    """The CSV: rows of the table are appended to it (default: benchmarks/results.csv), those of positions replace it,
    with a figure of the same name beside it (default: docs/results/cost-vs-positions.csv), and so do those of blocks
    (default: docs/results/blocks-resnet50.csv, and the table of docs/blocks.md)."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("threads", 1), ("repetitions", 3), ("seconds", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} must be at least {least}, found {value}")
        if self.what == "positions" and not self.memory:
            raise UserError("positions draws time and memory, so --no-memory goes with table")

    @property
    def rounds(self) -> int:
        """Timed rounds of each comparison, at most."""
        return self.repetitions or (3 if self.quick else 200)

    @property
    def limit(self) -> float:
        """Seconds for each comparison."""
        if self.seconds is not None:
            return self.seconds
        return 10.0 if self.what == "blocks" else 60.0

    @property
    def csv(self) -> Path | None:
        """Where the rows go; None for nowhere."""
        if self.output is not None or self.quick:
            return self.output
        return {"table": RESULTS, "positions": POSITIONS, "blocks": BLOCKS}[self.what]
