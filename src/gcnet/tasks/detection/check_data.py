"""Checks COCO annotations before training: one file, or the splits of a folder."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from gcnet.data.coco.inspection import PARTS, Inspection, image_names, inspect, read_annotations
from gcnet.data.coco.issues import ISSUE_KINDS, issue_summary
from gcnet.data.coco.layouts import find_annotation_files, image_folder, missing_annotations_error
from gcnet.data.coco.paths import ResolvedPaths, resolve_paths
from gcnet.data.places import first_bytes, is_folder, local_file, shown_place
from gcnet.errors import Failure, UserError, printable
from gcnet.progress_bar import progress_bar
from gcnet.remote_files import restored_url
from gcnet.storage import write_atomic
from gcnet.tasks.results import DataReport, describe_issues
from gcnet.tasks.settings import CheckDataSettings
from gcnet.visualization.annotations import draw_annotated_sheet, plot_label_statistics
from gcnet.visualization.style import figure_caption

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationsReport(DataReport):
    """Issues of an annotation file.

    Attributes:
        file: the annotation file.
        inspection: its issues, and its content after repair.
        counts: number of images, annotations and categories in the file.
        images: image folder; None if there is none.
        reads_images: whether the image files were read.
        listed: maximum number of issues of each kind in the text.
        lacks_images: whether the image files should have been read and are missing.
    """

    file: Path
    inspection: Inspection = field(repr=False)
    counts: Mapping[str, int]
    images: Path | None
    reads_images: bool
    listed: int
    lacks_images: bool = False

    @property
    def has_issues(self) -> bool:
        """Whether there are issues or missing image files."""
        return bool(self.inspection.issues) or self.lacks_images

    def __str__(self) -> str:
        """Return the counts of the file, and the first issues of each kind."""
        inspection, clean = self.inspection, self.inspection.clean
        with_objects = {annotation["image_id"] for annotation in clean["annotations"]}
        crowds = sum(annotation["iscrowd"] for annotation in clean["annotations"])
        masks = sum(bool(annotation.get("segmentation")) for annotation in clean["annotations"])
        usable = {part: f"{self.counts[part]:,}, {len(clean[part]):,} usable" for part in PARTS}
        kinds = len({issue.kind for issue in inspection.issues})
        lines = [
            f"images       {usable['images']}, {len(clean['images']) - len(with_objects):,} of these without an object",
            f"annotations  {usable['annotations']}, {masks:,} of these with a mask, {crowds:,} crowds",
            f"categories   {usable['categories']}",
            f"issues       {len(inspection.issues):,}" + (f" of {kinds} kinds" if kinds else ""),
        ]
        headings = {kind: f"{entry.action}: {entry.remedy}" for kind, entry in ISSUE_KINDS.items()}
        lines += describe_issues([*inspection.issues, *inspection.notes], headings, self.listed)
        if inspection.dropped:
            lines += ["", f"{inspection.dropped:,} annotations are skipped together with their image or category"]
        return "\n".join(lines)

    def write(self, folder: Path) -> list[str]:
        """Write issues.json, labels.png, and images.png if the image files were read.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        inspection, clean = self.inspection, self.inspection.clean
        report = {
            "annotations": restored_url(self.file),
            "counts": dict(self.counts),
            "usable": {part: len(clean[part]) for part in PARTS},
            "skipped_with_their_image_or_category": inspection.dropped,
            "kinds": dict(Counter(issue.kind for issue in inspection.issues)),
            "issues": [asdict(issue) | {"action": issue.action} for issue in inspection.issues],
            "notes": [asdict(issue) for issue in inspection.notes],
        }
        write_atomic(folder / "issues.json", (json.dumps(report, indent=2, default=str) + "\n").encode())
        written = ["issues.json"]
        counts = f"{len(clean['images']):,} images, {len(clean['annotations']):,} objects"
        caption = figure_caption("/".join(self.file.resolve().parts[-3:]), counts)
        if clean["annotations"]:
            plot_label_statistics(clean, folder / "labels.png", caption=caption)
            written.append("labels.png")
        if (
            self.reads_images
            and self.images
            and draw_annotated_sheet(clean, self.images, folder / "images.png", caption=caption)
        ):
            written.append("images.png")
        return written

    def write_fixed(self, file: Path) -> str:
        """Write a copy of the annotations without the issues.

        Args:
            file: the copy, in a folder that is created if it does not exist.

        Returns:
            A sentence on the copy.

        Raises:
            UserError: the format of the boxes is uncertain, or no image or annotation is usable.
        """
        clean = self.inspection.clean
        if not self.inspection.box_format.is_certain:
            raise UserError(f"`fix` wrote nothing: boxes may be {self.inspection.box_format}; convert them")
        for part in ("images", "annotations"):
            if self.counts[part] and not clean[part]:
                raise UserError(
                    f"`fix` wrote nothing: none of the {self.counts[part]:,} {part} can be used "
                    f"({issue_summary(self.inspection.issues)})"
                )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(clean).encode())
        kept = ", ".join(f"{len(clean[part]):,} of {self.counts[part]:,} {part}" for part in ("images", "annotations"))
        return f"wrote {file}, without the issues: {kept}"

    def image_files(self) -> ResolvedPaths:
        """Return the image files by `file_name` in the annotations; none if the image folder is unknown."""
        names = [image["file_name"] for image in self.inspection.clean["images"]]
        return ResolvedPaths("", {}, {}) if self.images is None else resolve_paths(self.images, names)

    def categories(self) -> frozenset[tuple[int, str]]:
        """Return the ids and names of the categories."""
        return frozenset((category["id"], category["name"]) for category in self.inspection.clean["categories"])


@dataclass(frozen=True)
class SplitsReport(DataReport):
    """Issues of the annotation files of a folder, and of its splits.

    Attributes:
        folder: the data set.
        files: report of each annotation file.
        comparisons: descriptions of shared images and of different categories between two splits.
    """

    folder: Path
    files: tuple[AnnotationsReport, ...]
    comparisons: tuple[str, ...]

    @property
    def has_issues(self) -> bool:
        """Whether a file has issues, or splits share images or differ in their categories."""
        return bool(self.comparisons) or any(report.has_issues for report in self.files)

    def __str__(self) -> str:
        """Return the report of each file, and the issues between splits."""
        return "\n\n".join([*(f"{shown_place(report.file)}\n{report}" for report in self.files), *self.comparisons])

    def write(self, folder: Path) -> list[str]:
        """Write the report of each file, into a folder each if there are several.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """
        if len(self.files) == 1:
            return self.files[0].write(folder)
        written = []
        for report in self.files:
            name = "-".join(report.file.relative_to(self.folder).with_suffix("").parts)
            written += [f"{name}/{file}" for file in report.write(folder / name)]
        return written

    def write_fixed(self, file: Path) -> str:
        return self.files[0].write_fixed(file)


def check_annotations(settings: CheckDataSettings) -> AnnotationsReport | SplitsReport:
    """Check an annotation file, or all annotation files of a folder.

    Args:
        settings: settings of the check.

    Returns:
        The report.

    Raises:
        UserError: the files do not exist or are not COCO annotations.
    """
    if not is_folder(settings.data):
        return _check_file(settings.data, settings)
    layout = find_annotation_files(settings.data)
    files = layout.files()
    if not files:
        raise missing_annotations_error(layout, "train")
    if settings.fix is not None and len(files) > 1:
        listed = ", ".join(shown_place(file) for file in files)
        raise UserError(f"`fix` takes one annotation file, but {shown_place(settings.data)} has {len(files)}: {listed}")
    reports = {file: _check_file(file, settings, finds_images=True) for file in files}
    splits = [split for split in (layout.train, layout.val, layout.test) if split]
    comparisons: list[str] = []
    if all(len(split) == 1 for split in splits):
        comparisons = compare_splits([reports[split[0]] for split in splits], settings.max_listed)
    return SplitsReport(settings.data, tuple(reports.values()), tuple(comparisons))


def _check_file(file: Path, settings: CheckDataSettings, *, finds_images: bool = False) -> AnnotationsReport:
    """Check an annotation file; `finds_images` also searches for its image folder."""
    content = read_annotations(local_file(file), shown_place(file))
    folder, problem = _image_folder(file, settings.images, content)
    reads_images = settings.images is not None or (finds_images and folder is not None)
    with progress_bar("images", len(content["images"]), shown=reads_images) as progress:
        inspection = inspect(content, folder, decodes=reads_images, workers=settings.workers, progress=progress)
    lacks_images = finds_images and folder is None
    if lacks_images:
        _logger.warning("image files not checked: %s", problem)
    elif not reads_images:
        _logger.warning("image files not checked; pass `images`")
    counts = {part: len(content[part]) for part in PARTS}
    return AnnotationsReport(file, inspection, counts, folder, reads_images, settings.max_listed, lacks_images)


def _image_folder(file: Path, images: Path | None, content: dict[str, Any]) -> tuple[Path | None, str]:
    """Return the image folder of an annotation file, or None and the reason why it was not found."""
    try:
        return image_folder(file, image_names(content), images=images), ""
    except Failure:
        raise
    except UserError as error:
        return images, str(error)


def compare_splits(reports: Sequence[AnnotationsReport], listed: int) -> list[str]:
    """Describe images in more than one split, and categories that differ between splits.

    Args:
        reports: report of each split.
        listed: maximum number of images in each description.

    Returns:
        A description for each kind of issue and pair of splits.
    """
    texts = []
    for first, second in combinations(reports, 2):
        names = f"{printable(first.file.name)} and {printable(second.file.name)}"
        if first.file.name == second.file.name:
            names = f"{shown_place(first.file)} and {shown_place(second.file)}"
        if different := sorted({name for _, name in first.categories() ^ second.categories()}):
            named = printable(", ".join(different[: listed or 1]))
            texts.append(f"categories of {names} differ, in names or ids: {named}")
        if shared := _shared_images(first, second):
            lines = [
                f"  {printable(name)}" + (f": the same bytes as {printable(other)}" if name != other else "")
                for name, other in shared[:listed]
            ]
            texts.append("\n".join([f"images in both {names}: {len(shared):,} (makes the AP too high)", *lines]))
    return texts


def _shared_images(first: AnnotationsReport, second: AnnotationsReport) -> list[tuple[str, str]]:
    """Return names of images in the first file, each with the name of an identical image in the second."""
    files = [report.image_files() for report in (first, second)]
    sizes = [{name: paths.size(name) for name in paths.files} for paths in files]
    both = (set(sizes[0].values()) & set(sizes[1].values())) - {None}  # only files of the same size are read
    others = {_digest(files[1], name): name for name in files[1].files if sizes[1][name] in both}
    chosen = (name for name in files[0].files if sizes[0][name] in both)
    pairs = ((name, others.get(_digest(files[0], name))) for name in chosen)
    return [(name, other) for name, other in pairs if other is not None]


def _digest(paths: ResolvedPaths, name: str) -> bytes:
    path = str(paths.path(name))
    try:
        return hashlib.sha256(first_bytes(Path(path), paths.size(name) or 0)).digest()
    except OSError:
        return path.encode("utf-8", "surrogateescape")
