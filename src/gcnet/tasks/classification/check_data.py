"""Checks labeled images before training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median_low

from gcnet.data.coco.conversion.formats import describe_nested_labels, find_label_format
from gcnet.data.coco.layouts import find_nested_annotations
from gcnet.data.decode import ImageError
from gcnet.data.images.check import IMAGE_ISSUE_KINDS, ImagesReport, SplitReport, check_images
from gcnet.data.images.class_balance import IMBALANCE
from gcnet.data.images.labeled import open_splits
from gcnet.data.images.shard_files import is_shards
from gcnet.data.images.sources import StoredImages, evenly_spread
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, printable
from gcnet.progress_bar import progress_bar
from gcnet.remote_files import is_remote, restored_url
from gcnet.storage import write_atomic
from gcnet.tasks.results import DataReport, describe_issues
from gcnet.tasks.settings import CheckDataSettings
from gcnet.text_files import json_bytes
from gcnet.visualization.images import contact_sheet
from gcnet.visualization.style import figure_caption

_SHEET_IMAGES = 60
_LISTED_CLASSES = 40


@dataclass(frozen=True)
class LabeledImagesReport(DataReport):
    """Result of `gcnet.check_data` for class folders or a CSV.

    Attributes:
        report: counts and issues.
        splits: images of each split, by its name.
        listed: maximum number of issues of each kind in the text.
        data: name of the data set, for the figure.
    """

    report: ImagesReport
    splits: Mapping[str, StoredImages] = field(repr=False)
    listed: int
    data: str = ""

    @property
    def has_issues(self) -> bool:
        """Whether there is any issue."""
        return bool(self.report.issues)

    def __str__(self) -> str:
        """Return images, sizes and classes of each split, and the first issues of each kind."""
        lines = [line for name, split in self.report.splits.items() for line in _describe_split(name, split)]
        issues = self.report.issues
        kinds = len({issue.kind for issue in issues})
        count = f"issues  {len(issues):,}" + (f" of {kinds} kinds" if kinds > 1 else "")
        listed = describe_issues(issues, IMAGE_ISSUE_KINDS, self.listed)
        return "\n".join([*lines, "", *_describe_classes(self.report), "", count, *listed])

    def write(self, folder: Path) -> list[str]:
        """Write report.json, and images.png with a sample of the first split.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        splits = {
            name: {
                "images": split.images,
                "per_class": dict(split.per_class),
                "sizes": {f"{width}x{height}": count for (width, height), count in Counter(split.sizes).most_common()},
                "modes": dict(split.modes),
                "notes": list(split.notes),
            }
            for name, split in self.report.splits.items()
        }
        issues = [asdict(issue) for issue in self.report.issues]
        write_atomic(folder / "report.json", json_bytes({"splits": splits, "issues": issues}))
        split, images = next(iter(self.splits.items()))
        has_sheet = _draw_sheet(images, folder / "images.png", f"{self.data}, {split}")
        return ["report.json", *(["images.png"] if has_sheet else [])]


def check_labeled_images(settings: CheckDataSettings) -> LabeledImagesReport:
    """Check class folders or a CSV for unreadable files, duplicates, leakage between splits, and class imbalance.

    Args:
        settings: settings of the check.

    Returns:
        The report.

    Raises:
        UserError: the data do not exist, or are labels of a detector.
    """
    data = restored_url(settings.data)
    if not (is_remote(data) or is_shards(data)):
        _refuse_other_data(settings.data)
    splits = open_splits(data, None if settings.images is None else restored_url(settings.images))
    with progress_bar("images", sum(map(len, splits.values()))) as progress:
        report = check_images(splits, workers=settings.workers, progress=progress)
    return LabeledImagesReport(report, splits, settings.max_listed, DataSettings(data=data).name)


def _refuse_other_data(data: Path) -> None:
    if (label_format := find_label_format(data)) is not None:
        raise UserError(
            f"{data} holds {label_format.name}: convert them to COCO annotations by `convert=FILE.json` first"
        )
    if nested := describe_nested_labels(data):
        raise UserError(f"{data} holds {nested}: convert that folder to COCO annotations by `convert=FILE.json` first")
    if data.is_dir() and (nested := find_nested_annotations(data)):
        raise UserError(f"{data} has COCO annotations in deeper folders, such as {nested}: check each of these files")
    if data.is_file() and data.suffix.lower() != ".csv":
        hint = "; labels of YOLO or Pascal VOC are given as their folder" if data.suffix in (".txt", ".xml") else ""
        raise UserError(f"gcnet check-data takes an annotation file (.json), a folder or a CSV, found {data}{hint}")


def _describe_split(name: str, split: SplitReport) -> list[str]:
    counts = list(split.per_class.values())
    per_class = f"{min(counts):,} to {max(counts):,} per class" if min(counts) != max(counts) else f"{counts[0]:,} each"
    lines = [f"{name:<6} {split.images:,} images, {len(counts):,} classes ({per_class})"]
    if split.sizes:
        modes = ", ".join(f"{count:,} {mode}" for mode, count in split.modes.items())
        lines.append(f"       {_describe_sizes(split.sizes)}; {modes}")
    return [*lines, *(f"       {printable(note)}" for note in split.notes)]


def _describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    if len(set(sizes)) == 1:
        return f"all {sizes[0][0]} x {sizes[0][1]} pixels"
    shorts, longs = [min(size) for size in sizes], [max(size) for size in sizes]
    return (
        f"short side {min(shorts)} to {max(shorts)} pixels (median {median_low(shorts)}), "
        f"long side {min(longs)} to {max(longs)} (median {median_low(longs)})"
    )


def _describe_classes(report: ImagesReport) -> list[str]:
    """Return a table of images per class, sorted by training images; a long table shows only both ends."""
    main = next(iter(report.splits.values()))
    ordered = sorted(main.per_class, key=lambda name: -main.per_class[name])
    half = _LISTED_CLASSES // 2
    shown = ordered if len(ordered) <= _LISTED_CLASSES else [*ordered[:half], *ordered[-half:]]
    names = [printable(name) for name in shown]
    width = max(map(len, [*names, "class"]))
    lines = [f"{'class':<{width}}" + "".join(f"  {split:>8}" for split in report.splits)]
    for name, label in zip(names, shown, strict=True):
        counts = (split.per_class[label] for split in report.splits.values())
        lines.append(f"{name:<{width}}" + "".join(f"  {count:>8,}" for count in counts))
    if len(shown) < len(ordered):
        lines.append(f"and {len(ordered) - len(shown):,} classes in between")
    most, least = main.per_class[ordered[0]], min(filter(None, main.per_class.values()), default=0)
    if most > IMBALANCE * least:
        lines.append(f"imbalance {most:,} to {least:,}: train with balanced class weights or balanced sampling")
    return lines


def _draw_sheet(images: StoredImages, path: Path, name: str) -> bool:
    """Draw a contact sheet of images and labels, spread evenly over the classes; return whether any was readable."""
    pictures, titles = [], []
    for index in evenly_spread(range(len(images)), _SHEET_IMAGES):
        try:
            picture = images.read(index)
        except ImageError:
            continue
        picture.thumbnail((400, 400))
        pictures.append(picture)
        label, file = images.classes[images.label(index)], Path(images.name(index)).name
        titles.append(f"{printable(label)}\n{printable(file)}")
    if pictures:
        caption = figure_caption(name, f"{len(pictures)} of {len(images):,} images")
        contact_sheet(pictures, titles, path, caption=caption)
    return bool(pictures)
