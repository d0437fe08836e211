"""`gcnet.cost`: costs of networks in total, by stage and by context block, relative to others on request."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gcnet.arguments import POSITIONAL, plain_arguments
from gcnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcnet.costs.networks import CountedNetwork
    from gcnet.costs.report import CostReport
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcnet.costs.networks import CountedNetwork
    from gcnet.costs.report import CostReport


LARGEST_COUNTED = 100_000  # pixels of a side of the image whose FLOPs are counted
_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")
_NOTES = """
FLOPs are of one image and count a multiply-add as two. MACs are multiply-adds, which papers call FLOPs.
Activations are what autograd saves for the backward pass of a training step at this batch size."""
_OF_TIMES = (
    "Times are medians, with quartiles in parentheses; a wide range indicates a busy machine. Stages and blocks are\n"
    "timed alone, without the optimizer update. Peaks are memory beyond the weights."
)


@dataclass(frozen=True)
class CostSettings:
    """Count parameters, FLOPs and activations of models, by stage and context block.

    Counting takes seconds and needs no weights.

    Examples:
      gcnet cost gc_resnet50 --against plain
      gcnet cost resnet50 wide_resnet50_2 --block gc --image-size 224 448 --output costs
      gcnet cost gc_cifar_resnet20 --against plain --batch-size 16 --measure
    """

    model: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    """Model names, model files, run folders (their best weights are used), models on the Hub in the cache, or published
    detectors, such as mmdet/NAME."""
    block: str | None = None
    """Context block to insert into models without one in their name."""
    ratio: float | None = None
    """Reduction ratio of the block (default: 16; 4 in CIFAR models)."""
    num_classes: int | None = None
    """Number of classes of models given by name (default: 1000; 10 for CIFAR models, 80 for detectors)."""
    against: str | None = None
    """Show differences to this model, or to "plain", the same model without blocks."""
    image_size: tuple[str, ...] = ()
    """Input sizes: N for a square, or HEIGHTxWIDTH (default: the model's own)."""
    batch_size: int | None = None
    """Batch size of a training step (default: 32; 2 for detectors)."""
    measure: bool = False
    """Measure time and peak memory of forward passes and training steps, too."""
    device: str = "auto"
    """Device for `measure`: cpu, cuda or cuda:N; auto uses CUDA if available."""
    output: Path | None = None
    """Folder for cost.csv and cost.png."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.model:
            raise UserError("gcnet cost needs at least one model, such as gc_resnet50")
        for name, value in (("num_classes", self.num_classes), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise UserError(f"`{name}` must be at least 1, found {value}")
        if self.device != "auto" and not self.measure:
            raise UserError("`device` requires `measure`; counting uses no device")
        self.sizes()

    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of every image size.

        Raises:
            UserError: a size is invalid.
        """
        sizes = []
        for text in self.image_size:
            match = _SIZE.fullmatch(text)
            sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if min(sides) < 1 or max(sides) > LARGEST_COUNTED:
                raise UserError(
                    f"`image_size` takes sides such as 224, or heights and widths such as 800x1280, of at most "
                    f"{LARGEST_COUNTED:,} pixels; found {text}"
                )
            sizes.append(sides)
        return sizes


@dataclass(frozen=True)
class Costs:
    """Result of `gcnet.cost`.

    Attributes:
        reports: of each network and image size.
        against: for each of them the report that it is compared with, or None.
        measured: whether time and memory were measured, too.
        notes: on the numbers of certain tasks.
    """

    reports: tuple["CostReport", ...]
    against: tuple["CostReport | None", ...]
    measured: bool = False
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Tables of all networks and of their parts, and notes on the numbers."""
        from gcnet.costs.report import parts_table, totals_table

        texts = [totals_table(self.reports, self.against)] if len(self.reports) > 1 else []
        for report, other in zip(self.reports, self.against, strict=True):
            title = f"{report.title()}, batch {report.batch}" + (f", against {other.model}" if other else "")
            texts += [title, parts_table(report, other)]
        notes = [_NOTES.strip(), *self.notes, *([_OF_TIMES] if self.measured else [])]
        return "\n\n".join([*texts, "\n".join(notes)])

    def write(self, folder: Path) -> list[str]:
        """Write cost.csv and cost.png into `folder`, which is created.

        Returns:
            The file names.
        """
        from gcnet.costs.figure import render_costs
        from gcnet.costs.report import costs_csv
        from gcnet.storage import write_atomic

        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "cost.csv", costs_csv(self.reports, self.against).encode("utf-8", "surrogateescape"))
        write_atomic(folder / "cost.png", render_costs(self.reports, self.against))
        return ["cost.csv", "cost.png"]


def count_costs(settings: CostSettings) -> Costs:
    """Return the costs for `settings` without writing `output`."""
    from gcnet.costs.networks import counted_network

    given = {"block": settings.block, "ratio": settings.ratio, "num_classes": settings.num_classes}
    arguments = {name: value for name, value in given.items() if value is not None}
    reports: list[CostReport] = []
    against: list[CostReport | None] = []
    notes: dict[str, None] = {}
    for name in settings.model:
        network = counted_network(name, arguments)
        notes |= dict.fromkeys(network.task.costs.notes)
        others = _against(network, settings)
        for size in settings.sizes() or [network.size()]:
            report, *other = _reports([network, *others], size, settings)
            reports.append(report)
            against.append(other[0] if other else None)
    return Costs(tuple(reports), tuple(against), settings.measure, tuple(notes))


@plain_arguments(CostSettings)
def cost(settings: CostSettings) -> Costs:
    """Count the costs of networks by stage and block: parameters, FLOPs, activations; on request time and memory.

    Returns:
        The reports; `str()` gives tables, `Costs.write` CSV and figure.

    Raises:
        UserError: an unknown network, one that does not take images of the size, or arguments that contradict.

    Example:
        >>> costs = gcnet.cost("gc_resnet50", against="plain")
        >>> costs.reports[0].total.values["parameters"]
        28078773
    """
    costs = count_costs(settings)
    if settings.output is not None:
        costs.write(settings.output)
    return costs


def _against(network: "CountedNetwork", settings: CostSettings) -> "list[CountedNetwork]":
    from gcnet.costs.networks import counted_network

    if settings.against is None:
        return []
    named: dict[str, Any] = {} if settings.num_classes is None else {"num_classes": settings.num_classes}
    return [network.plain() if settings.against == "plain" else counted_network(settings.against, named)]


def _reports(networks: "Sequence[CountedNetwork]", size: tuple[int, int], settings: CostSettings) -> "list[CostReport]":
    from gcnet.costs.networks import count

    batch = settings.batch_size or networks[0].task.costs.step_images
    reports = [count(network, size, batch) for network in networks]
    if not settings.measure:
        return reports
    from gcnet.costs.measured import measure_network
    from gcnet.devices import choose_device

    return measure_network(networks, reports, str(choose_device(settings.device)))
