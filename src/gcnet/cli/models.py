"""`gcnet models`: networks by name, with parameters, FLOPs and published results."""

from collections.abc import Sequence
from dataclasses import dataclass

from gcnet.costs.cost import LARGEST_COUNTED
from gcnet.errors import UserError

SUMMARY = "list networks with parameters and FLOPs"

_COLUMNS = ("model", "parameters", "GFLOPs", "input")


@dataclass(frozen=True)
class Settings:
    """List models with parameters, FLOPs and published results."""

    model: str | None = None
    """Show only this model; also a detector, or any classifier of timm or torchvision."""
    num_classes: int | None = None
    """Number of classes (default: 1000; 10 for CIFAR models, 80 for detectors)."""
    image_size: int | None = None
    """Input resolution in pixels for FLOPs (default: 224; 32 for CIFAR models, 800 x 1280 for detectors)."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        for name, value in (("num-classes", self.num_classes), ("image-size", self.image_size)):
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, found {value}")
        if self.image_size is not None and self.image_size > LARGEST_COUNTED:
            raise UserError(f"--image-size must be at most {LARGEST_COUNTED:,}, found {self.image_size}")


def run(settings: Settings) -> int:
    """Print the table."""
    from gcnet.models.registry import list_models
    from gcnet.text_files import markdown_table

    names = list_models() if settings.model is None else [settings.model]
    rows = [_row(name, settings) for name in names]
    print(markdown_table(_COLUMNS, rows, right=("parameters", "GFLOPs", "input")))
    print(
        "\nGFLOPs are of one image and count a multiply-add as two; papers on vision networks print multiply-adds under"
        "\nthat name, half of this number."
    )
    for note in _notes(settings.model):
        print(f"\n{note}")
    _print_published(names)
    return 0


def _print_published(names: Sequence[str]) -> None:
    """Print published results with their sources, if there are any."""
    from gcnet.experiments.published import SOURCES, published_lines

    lines = "\n".join(f"  {line}" for name in names for line in published_lines(name))
    if lines:
        print(
            "\nPublished by others, not measured here (ImageNet, CIFAR-10: top-1 / top-5 in %; Mask R-CNN: box / mask"
            f"\nAP on COCO val2017, 1x schedule; blocks of ratio 16 unless noted):\n{lines}\n"
        )
        print("\n".join(f"  [{mark}] {source}" for mark, source in SOURCES.items() if f"[{mark}]" in lines))


def _notes(name: str | None) -> list[str]:
    """What to know of the names of all tasks, or of the numbers of one network."""
    from gcnet.tasks.registry import TASKS, task_of

    notes = [task_of(name).flops_note] if name else [task.names_note for task in TASKS.values()]
    return [note for note in notes if note]


def _row(name: str, settings: Settings) -> tuple[str, ...]:
    import torch

    from gcnet.analysis.cost import count_parameters
    from gcnet.models.create import create_model
    from gcnet.tasks.registry import task_of

    side = settings.image_size
    with torch.device("meta"):
        model = create_model(name, num_classes=settings.num_classes)
    task = task_of(name)
    size = task.default_image_size(name, model) if side is None else (side, side)
    flops = task.count_flops(model, size) / 1e9
    counted = f"{flops:.3g}" if flops < 1 else f"{flops:.2f}"
    return name, f"{count_parameters(model):,}", counted, f"{size[0]} x {size[1]}"
