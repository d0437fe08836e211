"""The interface of predictors: trained networks that are called with images."""

import gc
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Literal, cast

import torch
from PIL import Image
from torch import nn

from gcnet.arguments import check_choices
from gcnet.children import available_cores
from gcnet.compilation import explained_compile_errors
from gcnet.data.dataset import Skipped
from gcnet.data.decode import FULL_DEPTH, ImageError
from gcnet.data.images.image_input import ImageInput, StoredFile
from gcnet.data.images.inputs import Images, image_inputs
from gcnet.devices import autocast_dtype
from gcnet.errors import OutOfMemory, UserError, explained_out_of_memory
from gcnet.insertion.followed_copy import FollowedCopy, has_foreign_hooks
from gcnet.remote_files import is_remote
from gcnet.tasks.batch_size import BatchSize, FoundBatchSize, advice_for, find_batch_size
from gcnet.tasks.results import PredictionResult
from gcnet.tasks.settings import PredictSettings
from gcnet.training.distributed import ALONE, Processes, in_turns

_MOST_THREADS = 8  # that open images
_SIZE = (256, 256)  # width and height of an image for trials, where networks resize images to one size


@dataclass(frozen=True)
class Inference:
    """How a predictor runs its network."""

    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    """float32, or half precision by autocast: bf16 or fp16; auto is bf16 on GPUs that support it."""
    fuse: bool = True
    """Run a fused copy of the network (`gcnet.fuse`), which gives the same outputs up to rounding; of a detector a copy
    of its backbone. A network with forward hooks runs as it is."""
    compile: bool = False
    """Compile the network, or the backbone of a detector, with torch.compile at the first call."""
    image_size: int | None = None
    """Classifiers: image size in pixels, if it differs from that of the network."""

    @classmethod
    def of(cls, settings: PredictSettings) -> "Inference":
        """Return how `gcnet predict` runs the network of `settings`."""
        return cls(precision=settings.precision, fuse=settings.fuse, compile=settings.compile)

    def __post_init__(self) -> None:
        """Refuse an unknown precision."""
        check_choices(self)


class Predictor(ABC):
    """A trained network that is called with images, made by `gcnet.load`.

    Calls do not change the network; they may come from several threads.

    Args:
        model: the network on its device, in eval mode.
        origin: model file, run folder or name, as given by the user.
        inference: precision, fusion and compilation.

    Attributes:
        model: the network. Calls follow its changes (see `FollowedCopy`).
        origin: where it is from.
        names: class names.
        default_batch_size: images per forward pass.
        largest_batch_size: the same at most where the size is found by trial.
        record_types: names and types of the values in `to_dict()` of a prediction; a list has the type of its items.
    """

    default_batch_size: ClassVar[int]
    largest_batch_size: ClassVar[int] = 128
    record_types: ClassVar[Mapping[str, Any]] = {}
    names: tuple[str, ...]

    def __init__(self, model: nn.Module, origin: str, inference: Inference) -> None:
        self.model, self.origin, self.inference = model, origin, inference
        self._copy = FollowedCopy(self._accelerated_part, self._accelerated)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.model.parameters()).device

    @property
    def autocast(self) -> torch.dtype | None:
        """Half-precision dtype of autocast; None for none."""
        return autocast_dtype(self.inference.precision, self.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.origin!r}, {len(self.names)} classes, {self.device})"

    def _call(
        self,
        images: Images,
        options: Any,
        *,
        batch_size: BatchSize = None,
        show: Callable[[Any, Any], None] = lambda *_: None,
        progress: Callable[[int], None] = lambda _: None,
        processes: Processes = ALONE,
    ) -> PredictionResult:
        """Predict all images, in batches; unreadable ones are skipped. Each process has every n-th batch.

        Args:
            images: as of `image_inputs`.
            options: passed to `_predict`.
            batch_size: images per forward pass; None for the default, "auto" for the largest that fits.
            show: called with each image, as `_prepared` returns it, and its prediction.
            progress: called with the number of images of each batch.
            processes: processes that share the batches; the result has the images of all.
        """
        self._check_network()
        inputs = image_inputs(images)
        if batch_size == "auto":
            call = partial(self._call, options=options)
            size = self.find_batch_size(call, images=len(inputs), processes=processes)
        else:
            size = self.default_batch_size if batch_size is None else batch_size
            if size < 1:
                raise UserError(f"`batch_size` must be at least 1, found {size}")
        turns = range(size * processes.rank, len(inputs), size * processes.world)
        own = [item for start in turns for item in inputs[start : start + size]]
        outcomes: list[Any] = []
        with torch.no_grad(), explained_compile_errors():
            fitting = size
            while len(outcomes) < len(own):
                try:
                    for batch in self._batches(own[len(outcomes) :], fitting, options, show):
                        outcomes += batch
                        progress(len(batch))
                except OutOfMemory:
                    if fitting == 1 or not isinstance(fitting, FoundBatchSize):
                        raise
                    fitting = self._smaller(fitting)
        batches = in_turns(processes.gather([outcomes[start : start + size] for start in range(0, len(own), size)]))
        whole = [outcome for batch in batches for outcome in batch]
        return self._result(
            tuple(outcome for outcome in whole if not isinstance(outcome, Skipped)),
            tuple(outcome for outcome in whole if isinstance(outcome, Skipped)),
        )

    def _batches(
        self, inputs: Sequence[ImageInput], size: int, options: Any, show: Callable[[Any, Any], None]
    ) -> Generator[list[Any]]:
        """Yield the prediction or `Skipped` of each image of a batch, batch by batch."""
        opened = self._opened(inputs)
        with explained_out_of_memory(size, advice=advice_for(size)):
            while batch := list(islice(opened, size)):
                readable = [(item, image) for item, image in batch if not isinstance(image, Skipped)]
                predictions = self._predict(readable, options) if readable else []
                for (_, image), prediction in zip(readable, predictions, strict=True):
                    show(image, prediction)
                remaining = iter(predictions)
                yield [image if isinstance(image, Skipped) else next(remaining) for _, image in batch]

    @staticmethod
    def _smaller(size: int) -> FoundBatchSize:
        """Half a batch size: the trial does not count the threads that open images, nor what else uses memory."""
        warnings.warn(f"batches of {size} images need more memory than their trial: now of {size // 2}", stacklevel=4)
        gc.collect()  # the error, which had references to tensors, is gone
        return FoundBatchSize(size // 2)

    def find_batch_size(
        self, call: Callable[..., object], *, images: int, processes: Processes = ALONE
    ) -> FoundBatchSize:
        """Find the largest batch size that fits into memory, and log it.

        Args:
            call: this predictor with the options of the prediction; takes images and `batch_size`.
            images: number of images of all processes.
            processes: processes that share the images; all use the same size.

        Returns:
            Images per forward pass.

        Raises:
            OutOfMemory: a single image does not fit.
        """
        eager = torch.compiler.set_stance("force_eager") if self.inference.compile else nullcontext()
        with eager:
            return find_batch_size(
                lambda size: call(self._largest_images(size), batch_size=size),
                most=self.largest_batch_size,
                images=images,
                device=self.device,
                processes=processes,
            )

    def _largest_images(self, count: int) -> list[Image.Image]:
        """Images that need the most memory."""
        return [Image.new("RGB", _SIZE)] * count

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

    def _opened(self, inputs: Sequence[ImageInput]) -> Generator[tuple[ImageInput, Any]]:
        """Open and prepare images in order, some ahead in threads: Pillow decodes without the interpreter lock."""
        is_waiting = any(isinstance(item.content, StoredFile) and is_remote(item.content.place) for item in inputs)
        threads = max(1, min(_MOST_THREADS, _MOST_THREADS if is_waiting else available_cores(), len(inputs)))
        ahead: deque[tuple[ImageInput, Future[Any]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for item in inputs:
                    ahead.append((item, pool.submit(self._open, item)))
                    if len(ahead) > 2 * threads:
                        item, image = ahead.popleft()
                        yield item, image.result()
                for item, image in ahead:
                    yield item, image.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, item: ImageInput) -> Any:
        try:
            image = item.open(bit_depth=self._bit_depth)
            self._check(item, image)
        except ImageError as error:
            return Skipped(item.name, error.reason)
        return self._prepared(image)

    def _prepared(self, image: Image.Image) -> Any:
        """What a batch holds of an image (RGB)."""
        return image

    _bit_depth: int = FULL_DEPTH
    """Used bits of 16-bit images."""

    def _check(self, item: ImageInput, image: Image.Image) -> None:  # noqa: B027
        """Raise ImageError for an image that the network cannot take."""

    @property
    def _accelerated_part(self) -> nn.Module:
        """The part of the network that is fused and compiled."""
        return self.model

    def _network(self) -> Any:
        """The network with its accelerated part."""
        return self._copy()

    def _accelerated(self, part: nn.Module) -> nn.Module:
        from gcnet.insertion.fuse import fuse  # imports torchvision, which may wait until the network is there

        chosen = fuse(part) if self.inference.fuse and not has_foreign_hooks(part) else part
        return cast(nn.Module, torch.compile(chosen)) if self.inference.compile else chosen

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
    def _predict(self, images: Sequence[tuple[ImageInput, Any]], options: Any) -> list[Any]:
        """Predict a batch of images, as `_prepared` returns them."""

    @abstractmethod
    def _result(self, predictions: tuple[Any, ...], skipped: tuple[Skipped, ...]) -> PredictionResult:
        """Return the result of a call."""
