"""The interface of predictors: trained networks that are called with images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import nn

from gcnet.data.dataset import Skipped
from gcnet.data.decode import FULL_DEPTH, ImageError
from gcnet.data.images.inputs import ImageInput, Images, image_inputs
from gcnet.devices import AUTOCAST
from gcnet.errors import UserError, unknown
from gcnet.tasks.results import PredictionResult


@dataclass(frozen=True)
class Inference:
    """How a predictor runs its network."""

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """float32, or half precision by autocast: bf16 or fp16."""
    compile: bool = False
    """Compile the network with torch.compile, at the first call; of a detector its backbone."""
    image_size: int | None = None
    """Classifiers: image size in pixels, if it differs from that of the network."""

    def __post_init__(self) -> None:
        """Refuse an unknown precision."""
        if self.precision not in AUTOCAST:
            raise unknown("`precision`", str(self.precision), AUTOCAST)


class Predictor(ABC):
    """A trained network that is called with images, made by `gcnet.load`.

    Calls do not change the network; they may come from several threads.

    Args:
        model: the network on its device, in eval mode.
        origin: model file, run folder or name, as given by the user.
        inference: precision and compilation.

    Attributes:
        model: the network.
        origin: where it is from.
        names: class names.
        default_batch_size: images per forward pass.
    """

    default_batch_size: ClassVar[int]
    names: tuple[str, ...]

    def __init__(self, model: nn.Module, origin: str, inference: Inference) -> None:
        self.model, self.origin, self.inference = model, origin, inference
        self._network = self._compiled(model) if inference.compile else model

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.model.parameters()).device

    @property
    def autocast(self) -> torch.dtype | None:
        """Half-precision dtype of autocast; None for none."""
        return AUTOCAST[self.inference.precision]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.origin!r}, {len(self.names)} classes, {self.device})"

    def _call(
        self,
        images: Images,
        options: Any,
        *,
        batch_size: int | None = None,
        show: Callable[[Image.Image, Any], None] = lambda *_: None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> PredictionResult:
        """Predict all images, in batches; unreadable ones are skipped.

        Args:
            images: as of `image_inputs`.
            options: passed to `_predict`.
            batch_size: images per forward pass; None for the default.
            show: called with each image (RGB) and its prediction.
            progress: called with the number of images of each batch.
        """
        self._check_network()
        inputs = image_inputs(images)
        size = self.default_batch_size if batch_size is None else batch_size
        if size < 1:
            raise UserError(f"`batch_size` must be at least 1, found {size}")
        done: list[Any] = []
        skipped: list[Skipped] = []
        with torch.no_grad():
            for start in range(0, len(inputs), size):
                batch = inputs[start : start + size]
                readable, unreadable = self._read(batch)
                skipped += unreadable
                predictions = self._predict(readable, options, first=len(done) + 1) if readable else []
                for (_, image), prediction in zip(readable, predictions, strict=True):
                    show(image, prediction)
                done += predictions
                progress(len(batch))
        return self._result(tuple(done), tuple(skipped))

    def _check_network(self) -> None:
        """Refuse a network that was changed to training mode or another dtype."""
        if self.model.training:
            raise UserError("the network of a predictor must be in eval mode: call `predictor.model.eval()`")
        dtype = next(self.model.parameters()).dtype
        if dtype != torch.float32:
            raise UserError(
                f"the network of a predictor must be in float32, found {str(dtype).removeprefix('torch.')}: call "
                "`predictor.model.float()`; `precision` of gcnet.load selects half precision"
            )

    def _read(self, batch: Sequence[ImageInput]) -> tuple[list[tuple[ImageInput, Image.Image]], list[Skipped]]:
        readable: list[tuple[ImageInput, Image.Image]] = []
        skipped: list[Skipped] = []
        for item in batch:
            try:
                image = item.open(bit_depth=self._bit_depth)
                self._check(item, image)
            except ImageError as error:
                skipped.append(Skipped(item.name, error.reason))
            else:
                readable.append((item, image))
        return readable, skipped

    _bit_depth: int = FULL_DEPTH
    """Used bits of 16-bit images."""

    def _check(self, item: ImageInput, image: Image.Image) -> None:  # noqa: B027
        """Raise ImageError for an image that the network cannot take."""

    def _compiled(self, model: nn.Module) -> Any:
        return torch.compile(model)

    @abstractmethod
    def __call__(self, images: Images) -> PredictionResult:
        """Predict images.

        Args:
            images: an image or several: files, folders, PIL images, arrays or tensors; see
                `gcnet.data.images.inputs.image_inputs`.

        Returns:
            The predictions in the order of the images, and the skipped files.

        Raises:
            UserError: a file does not exist, or an array or tensor is not an image.
        """

    @abstractmethod
    def _predict(self, images: Sequence[tuple[ImageInput, Image.Image]], options: Any, *, first: int) -> list[Any]:
        """Predict a batch of images; `first` is the number of its first image among all, from 1."""

    @abstractmethod
    def _result(self, predictions: tuple[Any, ...], skipped: tuple[Skipped, ...]) -> PredictionResult:
        """Return the result of a call."""
