"""`gcnet models`: networks by name, with parameters, FLOPs and published results; published checkpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import fill
from typing import TYPE_CHECKING, Literal

from gcnet.costs.cost import LARGEST_COUNTED
from gcnet.errors import UserError

if TYPE_CHECKING:
    from gcnet.checkpoints.published_files import PublishedFile
    from gcnet.costs.listed import NetworkCounts

SUMMARY = "list models with parameters and FLOPs, and published checkpoints"

_COLUMNS = ("model", "parameters", "GFLOPs", "input")


@dataclass(frozen=True)
class Settings:
    """List models with parameters, FLOPs and published results, or published checkpoints.

    Examples:
      gcnet models --model mask_rcnn_gc_resnet50
      gcnet models --published --library mmdet
      gcnet models --model mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco
    """

    model: str | None = None
    """Show only this model; also a detector, any classifier of timm or torchvision, or the details of a published
    checkpoint."""
    published: bool = False
    """List published checkpoints with their scores, instead of models."""
    library: Literal["mmdet1", "mmdet", "mmseg", "mmaction", "timm"] | None = None
    """Published checkpoints of this library only; mmdet1 are those of the authors of GCNet."""
    task: Literal["detection", "segmentation", "classification", "video"] | None = None
    """Published checkpoints of this task only."""
    num_classes: int | None = None
    """Number of classes (default: 1000; 10 for CIFAR models, 80 for detectors)."""
    image_size: int | None = None
    """Input resolution in pixels for FLOPs (default: 224; 32 for CIFAR models, 800 x 1280 for detectors)."""

    def __post_init__(self) -> None:
        """Check that sizes are positive and that the arguments fit together."""
        for name, value in (("num-classes", self.num_classes), ("image-size", self.image_size)):
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, found {value}")
        if self.image_size is not None and self.image_size > LARGEST_COUNTED:
            raise UserError(f"--image-size must be at most {LARGEST_COUNTED:,}, found {self.image_size}")
        self._check_published()

    @property
    def lists_published(self) -> bool:
        """Whether published checkpoints are listed, or one is shown; timm/NAME alone is a network of timm."""
        from gcnet.checkpoints.published_files import is_published_checkpoint

        name = self.model or ""
        return self.published or (is_published_checkpoint(name) and not name.startswith("timm/"))

    def _check_published(self) -> None:
        given = {name: getattr(self, name) is not None for name in ("library", "task", "num_classes", "image_size")}
        for name in ("num_classes", "image_size") if self.lists_published else ("library", "task"):
            if given[name]:
                reason = "is not for published checkpoints" if self.lists_published else "requires `published`"
                raise UserError(f"`{name}` {reason}")
        if self.lists_published and self.model and (given["library"] or given["task"]):
            raise UserError("`library` and `task` cannot be combined with `model`, which shows one checkpoint")


def run(settings: Settings) -> int:
    """Print the table.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    if settings.lists_published:
        return _run_published(settings)
    from gcnet.costs.listed import count_classifiers, count_network
    from gcnet.models.registry import list_models
    from gcnet.text_files import markdown_table

    sizes = {"num_classes": settings.num_classes, "image_size": settings.image_size}
    if settings.model is None:
        counted = list(count_classifiers(list_models(), **sizes))
    else:
        counted = [count_network(settings.model, **sizes)]
    names = [counts.name for counts in counted]
    print(markdown_table(_COLUMNS, [_row(counts) for counts in counted], right=("parameters", "GFLOPs", "input")))
    print(
        "\nGFLOPs are of one image and count a multiply-add as two; vision papers often report multiply-adds"
        "\nunder this name, half of this number."
    )
    for note in _notes(settings.model):
        print(f"\n{note}")
    _print_published(names)
    return 0


def _print_published(names: Sequence[str]) -> None:
    """Print published results with their sources, if there are any."""
    from gcnet.experiments.published import PUBLICATIONS, published_lines

    results = [line for name in names for line in published_lines(name)]
    lines = "\n".join(fill(line, 100, initial_indent="  ", subsequent_indent="    ") for line in results)
    if lines:
        print(
            "\nPublished by others, not measured here (ImageNet, CIFAR-10: top-1 / top-5 in %; Mask R-CNN: box"
            f"\n/ mask AP in % on COCO val2017, 1x schedule; blocks of ratio 16 unless noted):\n{lines}\n"
        )
        print("\n".join(f"  [{mark}] {source}" for mark, source in PUBLICATIONS.items() if f"[{mark}]" in lines))


def _notes(name: str | None) -> list[str]:
    """Notes on the model names of all tasks, or on the numbers of one model."""
    from gcnet.tasks.registry import TASKS, task_of

    notes = [task_of(name).costs.flops_note] if name else [task.names_note for task in TASKS.values()]
    return [note for note in notes if note]


def _row(counts: "NetworkCounts") -> tuple[str, ...]:
    flops = counts.flops / 1e9
    counted = f"{flops:.3g}" if flops < 1 else f"{flops:.2f}"
    return counts.name, f"{counts.parameters:,}", counted, f"{counts.size[0]} x {counts.size[1]}"


_SHOWN_METRICS = {"detection": 2}  # the first one for other tasks
_PUBLISHED_NOTE = (
    "The sizes of these files are not published: at least 4 bytes per parameter.\n"
    "LIBRARY/NAME is a value of --weights and --model; --download downloads the file."
)


def _run_published(settings: Settings) -> int:
    from gcnet.checkpoints.published_files import find_published_file, published_files

    if settings.model is not None:
        _print_details(find_published_file(settings.model))
        return 0
    chosen = [
        file
        for file in published_files()
        if settings.library in (None, file.library) and settings.task in (None, file.task)
    ]
    if not chosen:
        raise UserError(f"no published checkpoint of {settings.library} is for {settings.task}")
    for _, group in groupby(chosen, key=lambda file: (file.library, file.dataset)):
        _print_group(list(group))
    print(_PUBLISHED_NOTE)
    return 0


def _print_group(group: "Sequence[PublishedFile]") -> None:
    """Print the checkpoints of one library and data set."""
    first = group[0]
    count = _SHOWN_METRICS.get(first.task, 1)
    rows = [
        (file.name.removeprefix(f"{first.library}/"), "/".join(file.scores[:count]), f"{file.parameters / 1e6:.1f}")
        for file in group
    ]
    name, score = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    metrics = "/".join(first.metrics[:count])
    print(f"{first.library}/NAME, {first.task}: {metrics} on {first.dataset} (%), parameters (M)")
    print(f"(scores from {first.scores_from})")
    print("\n".join(f"{row[0]:{name}}  {row[1]:>{score}}  {row[2]:>5}" for row in rows), end="\n\n")


def _print_details(file: "PublishedFile") -> None:
    from gcnet.checkpoints.published_files import cached_path

    scores = ", ".join(f"{metric} {score}" for metric, score in zip(file.metrics, file.scores, strict=True))
    path = cached_path(file)
    _print_rows(
        (
            ("name", file.name),
            ("task", file.task),
            ("scores", f"{scores} on {file.dataset}"),
            ("source", file.scores_from),
            ("parameters", f"{file.parameters:,}"),
            ("size", f"not published; at least {file.smallest_size / 1e6:,.0f} MB"),
            ("license", file.license or "not stated"),
            ("URL", file.url),
            ("SHA-256", f"{file.digest}... (first 8 digits)"),
            ("cache", f"{path}{'' if path.is_file() else ' (not there)'}"),
        )
    )


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    for label, text in rows:
        print(f"{label:12}{text}")
