"""`gcnet models`: networks by name, with parameters, FLOPs and published results."""

from dataclasses import dataclass

from gcnet.costs.cost import LARGEST_COUNTED
from gcnet.errors import UserError

SUMMARY = "list networks with parameters and FLOPs"

_COLUMNS = ("model", "parameters", "GFLOPs", "input")

# What is published under these architectures, each with its source. ImageNet top-1/top-5 in percent at 224 pixels; COCO
# as box/mask AP of Mask R-CNN (1x, SyncBN in the backbone) with blocks of ratio 16 on val2017.
_ECA = "table of ECA-Net, arXiv 1910.03151"
_OFFICIAL = "xvjiarui/GCNet"
_INSIGHT = "implus/PytorchInsight"
_AKAMASTER = "akamaster/pytorch_resnet_cifar10"
PUBLISHED: dict[str, tuple[str, ...]] = {
    "gc_resnet50": (
        f"ImageNet 77.70/93.66, 28.08 M parameters, 3.87 G multiply-adds ({_ECA})",
        f"COCO 39.4/35.7 ({_OFFICIAL})",
    ),
    "gc_resnet101": (f"COCO 41.1/37.4 ({_OFFICIAL})",),
    "gc_resnext101_32x4d": (f"COCO 42.4/38.0 ({_OFFICIAL})",),
    "resnet50": (f"ImageNet 76.38 ({_INSIGHT})", f"COCO 37.2/33.8 ({_OFFICIAL})"),
    "se_resnet50": (f"ImageNet 77.18, same recipe as its resnet50 ({_INSIGHT})",),
    "resnet101": (f"COCO 39.8/36.0 ({_OFFICIAL})",),
    "resnext101_32x4d": (f"COCO 41.2/37.3 ({_OFFICIAL})",),
    "cifar_resnet20": (f"CIFAR-10 91.73 ({_AKAMASTER})",),
    "cifar_resnet56": (f"CIFAR-10 93.39 ({_AKAMASTER})",),
}


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
    published = [f"  {name}: {'; '.join(PUBLISHED[name])}" for name in names if name in PUBLISHED]
    if published:
        print(
            "\nPublished by others, not measured here (ImageNet: top-1/top-5 in % at 224 pixels; COCO: box/mask AP of"
            "\nMask R-CNN on this backbone on val2017, 1x schedule, blocks of ratio 16; CIFAR-10: top-1 in %):"
        )
        print("\n".join(published))
    return 0


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
