"""`gcnet cost`: what networks cost, in all, by stage and by context block, and against others."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gcnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcnet.cli.cost_networks import Choice
    from gcnet.workflows.cost_report import Bill

SUMMARY = "count what networks cost by stage and block: parameters, FLOPs, memory, time"

LARGEST_COUNTED = 100_000  # pixels of a side of the image whose FLOPs are counted
_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")
_BATCH, _DETECTORS_BATCH = 32, 2
_NOTES = """
FLOPs are of one image and count a multiply-add as two; MACs are the multiply-adds, which papers print as FLOPs.
Kept is what autograd saves in the forward pass of a training step, at this batch, without parameters."""
_OF_DETECTORS = (
    """A detector's FLOPs are with heads on 1000 regions and 100 masks; kept is with those sampled in training."""
)
_OF_TIMES = (
    "Times are medians, with quartiles in parentheses: where they are far apart, the machine was busy. Those of\n"
    "stages and blocks are of the part alone, its step without the update. Peaks are memory beyond the weights."
)


@dataclass(frozen=True)
class Settings:
    """Count what networks cost by stage and by context block: parameters, FLOPs, memory that training keeps.

    Counting takes seconds and no weights. Several networks and image sizes are set side by side.

    For example:

      gcnet cost gc_resnet50 --against plain
      gcnet cost resnet50 wide_resnet50_2 --block gc --image-size 224 448 --output costs
      gcnet cost gc_cifar_resnet20 --against plain --batch-size 16 --measure
    """

    model: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Networks by name, model files, or run folders (their best weights)."""
    block: str | None = None
    """Block to insert into networks whose name has none."""
    ratio: float | None = None
    """Reduction ratio r of the blocks (default: 16, in small networks 4)."""
    num_classes: int | None = None
    """Classes of networks by name (default: 1000, for CIFAR networks 10, of detectors 80)."""
    against: str | None = None
    """Give differences to this network, or to "plain", the same one without blocks (inserted ones, or else timm's and
    torchvision's own)."""
    image_size: tuple[str, ...] = ()
    """Image sizes, each a side such as 224 or HEIGHTxWIDTH (default: what the network is for)."""
    batch_size: int | None = None
    """Images of a training step (default: 32, of detectors 2)."""
    measure: bool = False
    """Also measure time and peak memory of a forward pass and of a training step, which takes a while."""
    device: str = "auto"
    """With --measure: auto (cuda if there is one), cpu, cuda or cuda:N."""
    output: Path | None = None
    """Write cost.csv and cost.png into this folder."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.model:
            raise UserError("gcnet cost needs at least one network, as in: gcnet cost gc_resnet50")
        for name, value in (("num-classes", self.num_classes), ("batch-size", self.batch_size)):
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, found {value}")
        if self.device != "auto" and not self.measure:
            raise UserError("--device belongs to --measure; counting needs none")
        self.sizes()

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every image size."""
        found = []
        for text in self.image_size:
            match = _SIZE.fullmatch(text)
            sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if min(sides) < 1 or max(sides) > LARGEST_COUNTED:
                raise UserError(
                    f"--image-size takes sides such as 224, or heights and widths such as 800x1280, of at most "
                    f"{LARGEST_COUNTED:,} pixels; found {text}"
                )
            found.append(sides)
        return found


def run(settings: Settings) -> int:
    """Count, measure if asked to, print and write."""
    from gcnet.cli.cost_networks import Choice

    given = {"block": settings.block, "ratio": settings.ratio, "num_classes": settings.num_classes}
    arguments = {name: value for name, value in given.items() if value is not None}
    bills: list[Bill] = []
    others: list[Bill | None] = []
    for name in settings.model:
        choice = Choice(name, arguments)
        against = _against(choice, settings)
        for size in settings.sizes() or [choice.size()]:
            bill, *other = _bills([choice, *against], size, settings)
            bills.append(bill)
            others.append(other[0] if other else None)
    _print(bills, others, settings)
    if settings.output is not None:
        _write(bills, others, settings.output)
    return 0


def _against(choice: "Choice", settings: Settings) -> "list[Choice]":
    from gcnet.cli.cost_networks import Choice

    if settings.against is None:
        return []
    named: dict[str, Any] = {} if settings.num_classes is None else {"num_classes": settings.num_classes}
    return [choice.plain() if settings.against == "plain" else Choice(settings.against, named)]


def _bills(choices: "Sequence[Choice]", size: tuple[int, int], settings: Settings) -> "list[Bill]":
    from gcnet.cli.cost_networks import count

    batch = settings.batch_size or (_DETECTORS_BATCH if choices[0].is_detector else _BATCH)
    bills = [count(choice, size, batch) for choice in choices]
    if not settings.measure:
        return bills
    from gcnet.cli.cost_measured import measure
    from gcnet.devices import choose_device

    return measure(choices, bills, str(choose_device(settings.device)))


def _print(bills: "Sequence[Bill]", others: "Sequence[Bill | None]", settings: Settings) -> None:
    from gcnet.workflows.cost_report import parts_table, totals_table

    if len(bills) > 1:
        print(f"{totals_table(bills, others)}\n")
    for bill, other in zip(bills, others, strict=True):
        against = f", against {other.model}" if other else ""
        print(f"{bill.title()}, batch {bill.batch}{against}\n\n{parts_table(bill, other)}\n")
    detectors = any(line.part == "proposals" for bill in bills for line in bill.lines)
    notes = [_NOTES.strip(), *([_OF_DETECTORS] if detectors else []), *([_OF_TIMES] if settings.measure else [])]
    print("\n".join(notes))


def _write(bills: "Sequence[Bill]", others: "Sequence[Bill | None]", folder: Path) -> None:
    from gcnet.storage import write_atomic
    from gcnet.workflows.cost_figure import render_bills
    from gcnet.workflows.cost_report import bills_csv

    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "cost.csv", bills_csv(bills, others).encode("utf-8", "surrogateescape"))
    shown = {(bill.model, bill.size): bill for bill in (*filter(None, others), *bills)}
    write_atomic(folder / "cost.png", render_bills(list(shown.values())))
    print(f"\nwrote cost.csv, cost.png into {folder}")
