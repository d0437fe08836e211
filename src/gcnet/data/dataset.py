"""Map-style data sets indexed by (epoch, index), with reproducible random transforms."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import Dataset

from gcnet.data.decode import ImageError
from gcnet.data.images.sources import ImageSource
from gcnet.data.sampler import Key
from gcnet.data.seeding import mix_seed, preserved_random_state, seed_everything_for_sample
from gcnet.data.transforms import EvalTransform, TrainTransform


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read.

    Attributes:
        name: Name of the image.
        reason: Why it could not be read.
    """

    name: str
    reason: str


Item = dict[str, Any] | Skipped


@runtime_checkable
class Named(Protocol):
    """A fixed sequence of images with names."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of the image at `index`, for messages and tables."""
        ...


class SeededDataset(Dataset[Item]):
    """Data set whose items are indexed by (epoch, index): dicts with a name, or `Skipped` for an unreadable image.

    The global generators of Python, NumPy and PyTorch are seeded with (seed, epoch, index) for every sample and
    restored afterwards, so a sample is the same in any worker process.

    Args:
        source: Names of the images; `sample` reads them.
        seed: Seed of the random transforms.
    """

    def __init__(self, source: Named, *, seed: int = 0) -> None:
        self.source, self.seed = source, seed

    @abstractmethod
    def sample(self, index: int) -> dict[str, Any]:
        """Return the sample without its name.

        Args:
            index: Index of the image, from 0.

        Returns:
            Fields of the sample; the base class adds "name".

        Raises:
            ImageError: The image cannot be read.
        """

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Key) -> Item:
        return self.load([index])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        return self.load(keys)

    def load(self, keys: Sequence[Key], *, announce: Callable[[int], None] | None = None) -> list[Item]:
        """Return the samples of several keys.

        Args:
            keys: (epoch, index) of each sample.
            announce: Called with each index before its image is read.

        Returns:
            A dict per sample, or `Skipped` for an unreadable image.
        """
        items: list[Item] = []
        self.prefetch([index for _, index in keys])
        with preserved_random_state():
            for epoch, index in keys:
                if announce is not None:
                    announce(index)
                items.append(self._load_one(epoch, index))
        return items

    def prefetch(self, indices: Sequence[int]) -> None:
        """Prepare for reading the images at `indices`, such as by requests at the same time; nothing by default."""

    def _load_one(self, epoch: int, index: int) -> Item:
        name = self.source.name(index)
        seed_everything_for_sample(mix_seed(self.seed, epoch, index))
        try:
            return {**self.sample(index), "name": name}
        except ImageError as error:
            return Skipped(name, error.reason)
        except Exception as error:
            error.add_note(f'while loading the image "{name}" (index {index})')
            raise


class ClassificationDataset(SeededDataset):
    """Labeled images: dict(image: uint8 (3, H, W), erased: rectangle or None, label: int, name: str), or `Skipped`.

    Args:
        source: Labeled images.
        transform: Transform of training or evaluation; its normalization is left to `Batch.inputs`.
        seed: Seed of the random transforms.
    """

    def __init__(self, source: ImageSource, transform: EvalTransform | TrainTransform, *, seed: int = 0) -> None:
        super().__init__(source, seed=seed)
        self.images, self.transform = source, transform

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request the remote images at `indices` at the same time."""
        self.images.prefetch(indices)

    def sample(self, index: int) -> dict[str, Any]:
        """Return the transformed pixels, the rectangle to erase and the label of the image at `index`."""
        pixels, erased = self.transform.pixels(self.images.read(index))
        return {"image": pixels, "erased": erased, "label": self.images.label(index)}
