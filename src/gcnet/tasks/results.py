"""Results of a task: trained networks, evaluations, predictions, attention readers, checks of data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from gcnet.data.dataset import Skipped
from gcnet.errors import UserError, printable
from gcnet.storage import write_atomic
from gcnet.text_files import csv_bytes, json_bytes

if TYPE_CHECKING:
    from gcnet.analysis.attention import Attention
    from gcnet.visualization.attention_maps import ImageMaps


@runtime_checkable
class TrainedModel(Protocol):
    """A trained network in eval mode."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...


class EvaluationResult(ABC):
    """Result of `gcnet.evaluate`; `str()` returns tables."""

    @property
    @abstractmethod
    def images(self) -> int:
        """Number of evaluated images."""

    @property
    @abstractmethod
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""

    @property
    @abstractmethod
    def scores(self) -> Mapping[str, float | None]:
        """Metrics by name; accuracy and average precision as fractions from 0 to 1."""

    def summary(self) -> dict[str, str]:
        """Return the main metrics as short strings, by column title."""
        return {name: "-" if value is None else f"{value:.4f}" for name, value in self.scores.items()}

    @abstractmethod
    def __str__(self) -> str:
        """Return tables of the metrics."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the content of results.json."""

    @abstractmethod
    def write(self, folder: Path) -> list[str]:
        """Write results.json, per-class tables and figures.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """


@dataclass(frozen=True)
class PredictionResult(ABC):
    """Result of `gcnet.predict`; `str()` returns a table.

    Attributes:
        images: prediction of each image, in the order of the files.
        skipped: files that could not be read.
        figures: description of the figures written, or an empty string.
    """

    images: tuple[Any, ...]
    skipped: tuple[Skipped, ...]
    figures: str = field(default="", kw_only=True)

    @abstractmethod
    def __str__(self) -> str:
        """Return a table with a row for each image."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the predictions as JSON values."""

    @abstractmethod
    def rows(self) -> Iterator[Sequence[object]]:
        """Yield the rows of a table, column names first."""

    def plot(self) -> list[Image.Image]:
        """Return each image, RGB, with its prediction drawn."""
        return [image.plot() for image in self.images]

    def save(self, path: str | Path) -> None:
        """Write the predictions to a file, whose folder is created; an existing file is replaced.

        Args:
            path: a name that ends in .json or .csv.

        Raises:
            UserError: another ending.
            StorageError: the file cannot be written.
        """
        file = Path(path)
        contents = {".json": lambda: json_bytes(self.to_dict()), ".csv": lambda: csv_bytes(self.rows())}
        content = contents.get(file.suffix.lower())
        if content is None:
            raise UserError(f"predictions are saved to a .json or .csv file, found {printable(file)}")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content())


@dataclass(frozen=True)
class AttentionReader:
    """A function that computes attention maps of image files.

    Attributes:
        read: returns the maps of a file; raises ImageError if the file cannot be read.
        row_names: names of the labels of `ImageMaps`, for figures of gates.
    """

    read: "Callable[[Path], ImageMaps]"
    row_names: Sequence[str]


class MeasuredImages(ABC):
    """Images of a data set for attention statistics, prepared for the network.

    Attributes:
        model: the network, or the part of it that is analyzed.
        classes: class names.
        labels: label of each image of the last batch.
        worked: number of images of this process so far.
        skipped: images of this process that could not be read so far.
        batches: number of each batch so far among those of all processes, from 0, in the order of the images.
        batch_size: images of a batch.
    """

    model: nn.Module
    classes: tuple[str, ...]
    labels: list[int]
    worked: int
    skipped: list[Skipped]
    batches: list[int]
    batch_size: int

    @abstractmethod
    def images(self) -> Iterator[Tensor]:
        """Yield batches of images (N, 3, H, W), float, on the device of the network."""

    def part(self, attention: "Attention") -> "Attention":
        """Return `attention` without the positions in the padding of the image."""
        return attention


class DataReport(ABC):
    """Result of `gcnet.check_data`; `str()` returns a summary and the issues by kind."""

    @property
    @abstractmethod
    def has_issues(self) -> bool:
        """Whether there are issues."""

    @abstractmethod
    def __str__(self) -> str:
        """Return a summary, and the first issues of each kind."""

    @abstractmethod
    def write(self, folder: Path) -> list[str]:
        """Write all issues as JSON, and figures.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """

    def write_fixed(self, file: Path) -> str:
        """Write a copy of the data without the issues, for tasks with the setting `fix`.

        Args:
            file: the copy, in a folder that is created if it does not exist.

        Returns:
            A sentence on the copy.

        Raises:
            UserError: the data cannot be fixed, or nothing would be left.
        """
        raise NotImplementedError


@runtime_checkable
class DataIssue(Protocol):
    """An issue of a data set; `str()` returns a description."""

    @property
    def kind(self) -> str:
        """The kind of issue."""
        ...


def describe_issues(issues: Sequence[DataIssue], headings: Mapping[str, str], listed: int) -> list[str]:
    """Describe issues, grouped by kind.

    Args:
        issues: the issues.
        headings: text after the count of each kind, or an empty string; kinds are listed in this order.
        listed: maximum number of issues of each kind.

    Returns:
        Lines of text.
    """
    lines = []
    for kind, heading in headings.items():
        of_kind = [issue for issue in issues if issue.kind == kind]
        if not of_kind:
            continue
        lines += ["", f"{kind}: {len(of_kind):,}" + (f" ({heading})" if heading else "")]
        lines += [f"  {printable(str(issue))}" for issue in of_kind[:listed]]
        if len(of_kind) > listed > 0:
            lines.append(f"  and {len(of_kind) - listed:,} more")
    return lines


def assumed_order_note(origin: str | None, outputs: str, classes: Sequence[str]) -> str:
    """Return the note that outputs of a network without class names are assumed in the order of the data's classes.

    Args:
        origin: the network or its weights, as given by the user.
        outputs: name of its outputs, such as "labels".
        classes: class names of the data.

    Returns:
        The note, with the first class names.
    """
    order = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    return f"{origin} has no class names; its {outputs} are assumed to be, in this order, {order}"
