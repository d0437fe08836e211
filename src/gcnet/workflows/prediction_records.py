"""Predictions of any number of images as JSON lines or Parquet: a record per image, written batch by batch."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gcnet.data.images.image_input import ImageInput
from gcnet.errors import UserError
from gcnet.progress_bar import progress_bar
from gcnet.storage import atomic_file
from gcnet.tasks.predictor import Predictor
from gcnet.training.distributed import Processes

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class PredictionFile:
    """Result of `gcnet.predict` with records as `output`; `str()` is a sentence.

    Attributes:
        path: the file, with a record per image in the order of the images: `path`, a path or URL, and the prediction or
            an `error`.
        images: number of predicted images.
        skipped: number of images that could not be read.
    """

    path: Path
    images: int
    skipped: int

    def __str__(self) -> str:
        """Return the file and the number of its records."""
        return f"{self.images + self.skipped:,} records in {self.path}"


@dataclass(frozen=True)
class RecordPredictor:
    """A predictor with its options, whose predictions are records.

    Attributes:
        predictor: the predictor.
        options: of its calls, with the `batch_size`.
    """

    predictor: Predictor
    options: Mapping[str, Any]

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        return self.options["batch_size"] or self.predictor.default_batch_size

    def with_batch_size(self, images: int, processes: Processes) -> "RecordPredictor":
        """Return a predictor with a number in place of "auto" as `batch_size`.

        Args:
            images: number of images of all processes.
            processes: processes that share the images.
        """
        if self.options["batch_size"] != "auto":
            return self
        others = {name: value for name, value in self.options.items() if name != "batch_size"}
        size = self.predictor.find_batch_size(partial(self.predictor, **others), images=images, processes=processes)
        return replace(self, options={**others, "batch_size": size})

    def __call__(self, images: Sequence[ImageInput]) -> Records:
        """Return the record of each image file of a batch."""
        result = self.predictor(images, **self.options)
        errors = {skipped.name: skipped.reason for skipped in result.skipped}
        predictions = iter(result.images)
        names = (image.name for image in images)
        return [
            {"path": name, "error": errors[name]} if name in errors else next(predictions).to_dict() for name in names
        ]


def batches_of(images: Sequence[ImageInput], size: int) -> list[Sequence[ImageInput]]:
    """Return the batches of image files, of which the last may be smaller.

    Args:
        images: image files.
        size: number of images in a batch.
    """
    return [images[start : start + size] for start in range(0, len(images), size)]


def predicted_by_processes(
    predict: RecordPredictor, images: Sequence[ImageInput], processes: Processes
) -> Iterator[Records]:
    """Yield the records of each batch in order, in every process; each process predicts every n-th batch.

    Args:
        predict: the predictor.
        images: image files.
        processes: processes that share the batches.
    """
    batches = batches_of(images, predict.batch_size)
    for first in range(0, len(batches), processes.world):
        own = batches[first + processes.rank : first + processes.rank + 1]
        for records in processes.gather([predict(batch) for batch in own]):
            yield from records


def write_records(
    path: Path, batches: Iterable[Records], types: Mapping[str, Any], *, images: int, shown: bool = True
) -> PredictionFile:
    """Write records to a file that is replaced as a whole at the end.

    Args:
        path: a name that ends in .jsonl or .parquet; its folder is created.
        batches: records in order.
        types: columns of Parquet as of `Predictor.record_types`.
        images: number of images, for the progress bar.
        shown: whether to show the progress bar.

    Returns:
        The file and the number of its records.

    Raises:
        UserError: pyarrow is not installed, for Parquet.
        StorageError: the file cannot be written.
    """
    failed = written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress_bar("images", images, shown=shown) as progress,
        atomic_file(path, 0) as file,
        _writer(path, file, types) as write,
    ):
        for records in batches:
            write(records)
            failed += sum("error" in record for record in records)
            written += len(records)
            progress(len(records))
    return PredictionFile(path, written - failed, failed)


@contextmanager
def _writer(path: Path, file: BinaryIO, types: Mapping[str, Any]) -> Generator[Callable[[Records], object]]:
    if path.suffix.lower() != ".parquet":
        yield lambda records: file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        return
    require_pyarrow()
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema({"path": pyarrow.string(), "error": pyarrow.string(), **_arrow_fields(types)})
    with ParquetWriter(file, schema) as writer:
        pending: Records = []

        def write(records: Records, least: int = _GROUP) -> None:
            pending.extend(records)
            if len(pending) >= least:
                writer.write_table(_table(pending, schema))
                pending.clear()

        yield write
        write([], 1)


def _table(records: Records, schema: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.Table.from_pylist(records, schema)
    except UnicodeEncodeError:  # a name that is not UTF-8
        return pyarrow.Table.from_pylist(_escaped(records), schema)


def _escaped(value: Any) -> Any:
    """Return a value whose texts are UTF-8; other bytes are escaped as in the JSON lines."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_escaped(entry) for entry in value]
    return {name: _escaped(entry) for name, entry in value.items()} if isinstance(value, dict) else value


_GROUP = 4096  # records of a row group


def require_pyarrow() -> None:
    """Check that pyarrow is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError('Parquet requires pyarrow, which is not installed: pip install "gcnet[ray]"') from None


def _arrow_fields(types: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _arrow_type(kind) for name, kind in types.items()}


def _arrow_type(kind: Any) -> Any:
    """The Arrow type of a Python type, a list of one, or a mapping of names to types."""
    import pyarrow

    if isinstance(kind, list):
        return pyarrow.list_(_arrow_type(kind[0]))
    if isinstance(kind, Mapping):
        return pyarrow.struct(_arrow_fields(kind))
    return {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}[kind]
