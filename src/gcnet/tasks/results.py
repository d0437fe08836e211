"""Results of a task: trained networks, evaluations, predictions, attention readers, checks of data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from gcnet.data.dataset import Skipped
from gcnet.errors import printable

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
    """Result of `gcnet.evaluate`; `str()` gives tables."""

    @property
    @abstractmethod
    def images(self) -> int:
        """Number of images evaluated."""

    @property
    @abstractmethod
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""

    @property
    @abstractmethod
    def scores(self) -> Mapping[str, float | None]:
        """The metrics by name; shares and average precision as fractions from 0 to 1."""

    def summary(self) -> dict[str, str]:
        """The main metrics as short texts, by the title of their column."""
        return {name: "-" if value is None else f"{value:.4f}" for name, value in self.scores.items()}

    @abstractmethod
    def __str__(self) -> str:
        """Tables of the metrics."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""

    @abstractmethod
    def write(self, folder: Path) -> list[str]:
        """Write results.json, per-class tables and figures.

        Args:
            folder: of the files; created if it does not exist.

        Returns:
            Names of the files written.
        """


@dataclass(frozen=True)
class PredictionResult(ABC):
    """Result of `gcnet.predict`; `str()` gives a table.

    Attributes:
        images: the prediction of each image, in the order of the files.
        skipped: files that could not be read.
        figures: description of the pictures written, empty if none were.
    """

    images: tuple[Any, ...]
    skipped: tuple[Skipped, ...]
    figures: str = field(default="", kw_only=True)

    @abstractmethod
    def __str__(self) -> str:
        """A row for each image."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The predictions as plain JSON values."""

    @abstractmethod
    def rows(self) -> Iterator[Sequence[object]]:
        """The predictions as a table, the names of the columns first."""


@dataclass(frozen=True)
class AttentionReader:
    """How attention maps of an image file are computed.

    Attributes:
        read: maps of a file; raises ImageError if the file cannot be read.
        row_names: names of the labels of `ImageMaps`, for figures of gates.
    """

    read: "Callable[[Path], ImageMaps]"
    row_names: Sequence[str]


class MeasuredImages(ABC):
    """Images of a data set for statistics of attention, prepared for the network.

    Attributes:
        model: the network, or the part of it that is measured.
        classes: names of the labels.
        labels: label of each image of the last batch.
        worked: number of images given so far.
        skipped: images that could not be read, so far.
    """

    model: nn.Module
    classes: tuple[str, ...]
    labels: list[int]
    worked: int
    skipped: list[Skipped]

    @abstractmethod
    def images(self) -> Iterator[Tensor]:
        """Batches of images (N, 3, H, W) float on the network's device."""

    def part(self, attention: "Attention") -> "Attention":
        """The attention of positions that belong to the image, not to its padding."""
        return attention


class DataReport(ABC):
    """Result of `gcnet.check_data`; `str()` gives a summary and the issues by kind."""

    @property
    @abstractmethod
    def has_issues(self) -> bool:
        """Whether there is any issue."""

    @abstractmethod
    def __str__(self) -> str:
        """A summary, and the first issues of each kind."""

    @abstractmethod
    def write(self, folder: Path) -> list[str]:
        """Write all issues as JSON, and pictures.

        Args:
            folder: of the files; created if it does not exist.

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
            UserError: nothing would be left, or the data cannot be fixed.
        """
        raise NotImplementedError


@runtime_checkable
class Issue(Protocol):
    """An issue of a data set, described by `str()`."""

    @property
    def kind(self) -> str:
        """The kind of issue."""
        ...


def describe_issues(issues: Sequence[Issue], headings: Mapping[str, str], listed: int) -> list[str]:
    """Issues grouped by kind.

    Args:
        issues: of any kinds.
        headings: for each kind, in the order of the groups, the text behind its count; "" for none.
        listed: number of issues that are described of each kind, from 0.

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
