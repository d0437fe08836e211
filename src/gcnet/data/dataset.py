"""Map-style data sets by (epoch, index), with random transforms that any worker repeats to the bit."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gcnet.data.decode import ImageError
from gcnet.data.images.sources import ImageSource
from gcnet.data.sampler import Key
from gcnet.data.seeding import mix_seed, preserved_random_state, seed_everything_for_sample


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    name: str
    reason: str


Item = dict[str, Any] | Skipped


@runtime_checkable
class Named(Protocol):
    """A fixed sequence of images that have names."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called in messages and tables."""
        ...


class SeededDataset(Dataset[Item]):
    """SeededDataset of a source by key (epoch, index): dicts with a name, or Skipped.

    The global generators of python, numpy and torch are seeded from (seed, epoch, index) before each sample is made,
    and are given back as they were.

    Args:
        source: of the names; what else it is, `sample` knows.
        seed: of the random transforms.
    """

    def __init__(self, source: Named, *, seed: int = 0) -> None:
        self.source, self.seed = source, seed

    @abstractmethod
    def sample(self, index: int) -> dict[str, Any]:
        """What there is beside the name; raises ImageError for an image that cannot be read."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Key) -> Item:
        return self.load([index])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        return self.load(keys)

    def load(self, keys: Sequence[Key], *, announce: Callable[[int], None] | None = None) -> list[Item]:
        """The samples of several keys; `announce` is called with each index before it is read."""
        items: list[Item] = []
        with preserved_random_state():
            for epoch, index in keys:
                if announce is not None:
                    announce(index)
                items.append(self._load_one(epoch, index))
        return items

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
    """Labelled images of a source: dict(image: float32 (3, H, W), label: int, name: str), or Skipped.

    Args:
        source: where images come from.
        transform: RGB image -> float32 (3, H, W).
        seed: of the random transforms.
    """

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], Tensor], *, seed: int = 0) -> None:
        super().__init__(source, seed=seed)
        self.labelled, self.transform = source, transform

    def sample(self, index: int) -> dict[str, Any]:
        """The transformed image and its label."""
        return {"image": self.transform(self.labelled.read(index)), "label": self.labelled.label(index)}
