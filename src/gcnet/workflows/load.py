"""`gcnet.load`: loads a trained network for predictions."""

from dataclasses import dataclass, field

import torch

from gcnet.arguments import POSITIONAL, plain_arguments
from gcnet.devices import choose_device, place_network
from gcnet.errors import UserError
from gcnet.tasks.predictor import Inference, Predictor
from gcnet.tasks.trained import open_trained


@dataclass(frozen=True)
class LoadSettings:
    """Load a trained network for predictions."""

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights are used), model on the Hugging Face Hub (hf://user/name or
    hf://user/name@revision), published checkpoint such as mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco, or a model
    name with `weights`."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", or a published version such as IMAGENET1K_V1."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""
    download: bool = False
    """Download a model on the Hub, or published weights that are not in the cache."""
    threads: int | None = None
    """CPU threads of PyTorch, for the whole process (default: unchanged)."""
    inference: Inference = field(default_factory=Inference)
    """How the network runs."""

    def __post_init__(self) -> None:
        """Refuse a number of threads below 1."""
        if self.threads is not None and self.threads < 1:
            raise UserError(f"`threads` must be at least 1, found {self.threads}")


@plain_arguments(LoadSettings)
def load(settings: LoadSettings) -> Predictor:
    """Load a trained network, and return its predictor, which is called with images.

    The predictor may be called from several threads; `predictor.model` is the network itself.

    Returns:
        The predictor: of a classifier `gcnet.tasks.classification.predict.ClassPredictor`, of a detector
        `gcnet.tasks.detection.predict.ObjectPredictor`.

    Raises:
        UserError: no such network, or it has no preprocessing.

    Example:
        >>> from PIL import Image
        >>> model = gcnet.create_model("gc_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> predictor = gcnet.load("scenes.safetensors", device="cpu")
        >>> result = predictor(Image.new("RGB", (80, 64)), topk=2)
        >>> len(result.images[0].classes)
        2
    """
    device = choose_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    image_size = settings.inference.image_size
    loaded = open_trained(settings.model, settings.weights, image_size=image_size, download=settings.download)
    place_network(loaded.trained.model, device)
    return loaded.task.predictor(loaded, settings.inference)
