"""Names of ImageNet's 1,000 classes, for published networks whose files have none."""

from gcnet.models.card import ModelCard
from gcnet.models.pretrained import PretrainedWeights

CLASSES = 1000


def names_for_weights(weights: PretrainedWeights | None, classes: int) -> tuple[str, ...] | None:
    """Return the class names of weights of torchvision or timm, if their version says that they are of ImageNet-1k.

    Args:
        weights: pretrained weights; None for others.
        classes: number of classes of the network.
    """
    version = "" if weights is None else weights.version.lower()
    is_imagenet = classes == CLASSES and (version.startswith("imagenet1k") or version.endswith("in1k"))
    return _names() if is_imagenet else None


def names_for_file(card: ModelCard) -> tuple[str, ...] | None:
    """Return the class names of a converted file that was published as trained on ImageNet-1k.

    Args:
        card: of the model file.
    """
    dataset = str((card.provenance or {}).get("dataset"))
    return _names() if card.num_classes == CLASSES and dataset.startswith("ImageNet ") else None


def _names() -> tuple[str, ...]:
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
