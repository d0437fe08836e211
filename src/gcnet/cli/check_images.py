"""`gcnet check-data` for labeled images: prints and writes issues."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING

from gcnet.errors import printable

if TYPE_CHECKING:
    from gcnet.data.images.check import ImageIssue, ImagesReport, SplitReport
    from gcnet.data.images.sources import FileImages
    from gcnet.workflows.check_data import CheckDataSettings

_SHEET = 60
_LISTED_CLASSES = 40


def check_labeled(settings: "CheckDataSettings") -> int:
    """Check, print what was found, and write what --output asks for; 1 where there are problems."""
    from gcnet.cli import EXIT_FAILURE, EXIT_OK
    from gcnet.cli.progress import progress_bar
    from gcnet.data.images.check import check_images
    from gcnet.data.images.labeled import open_splits

    splits = open_splits(str(settings.data), None if settings.images is None else str(settings.images))
    with progress_bar("images", sum(map(len, splits.values()))) as progress:
        report = check_images(splits, workers=settings.workers, progress=progress)
    for name, split in report.splits.items():
        _print_split(name, split)
    _print_classes(report)
    _print_problems(report.problems, settings.max_listed)
    if settings.output is not None:
        _write(report, splits, settings.output)
    return EXIT_FAILURE if report.problems else EXIT_OK


def _print_split(name: str, split: "SplitReport") -> None:
    counts = list(split.per_class.values())
    per_class = f"{min(counts):,} to {max(counts):,} per class" if min(counts) != max(counts) else f"{counts[0]:,} each"
    print(f"{name:<6} {split.images:,} images, {len(counts):,} classes ({per_class})")
    if split.sizes:
        print(f"       {_sizes(split.sizes)}; {', '.join(f'{count:,} {mode}' for mode, count in split.modes.items())}")
    for note in split.notes:
        print(f"       {printable(note)}")


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    if len(set(sizes)) == 1:
        return f"all {sizes[0][0]} x {sizes[0][1]} pixels"
    shorts, longs = [min(size) for size in sizes], [max(size) for size in sizes]
    return (
        f"short side {min(shorts)} to {max(shorts)} pixels (median {median_low(shorts)}), "
        f"long side {min(longs)} to {max(longs)} (median {median_low(longs)})"
    )


def _print_classes(report: "ImagesReport") -> None:
    """The classes with the most training images first; of many, the first and the last of them."""
    from gcnet.data.images.check import IMBALANCE

    main = next(iter(report.splits.values()))
    ordered = sorted(main.per_class, key=lambda name: -main.per_class[name])
    half = _LISTED_CLASSES // 2
    shown = ordered if len(ordered) <= _LISTED_CLASSES else [*ordered[:half], *ordered[-half:]]
    names = [printable(name) for name in shown]
    width = max(map(len, [*names, "class"]))
    print(f"\n{'class':<{width}}" + "".join(f"  {split:>8}" for split in report.splits))
    for name, label in zip(names, shown, strict=True):
        print(f"{name:<{width}}" + "".join(f"  {split.per_class[label]:>8,}" for split in report.splits.values()))
    if len(shown) < len(ordered):
        print(f"and {len(ordered) - len(shown):,} classes in between")
    most, least = main.per_class[ordered[0]], min(filter(None, main.per_class.values()), default=0)
    if most > IMBALANCE * least:
        print(f"imbalance {most:,} to {least:,}: --class-weights balanced or --sampling balanced makes up for it")


def _print_problems(problems: "Sequence[ImageIssue]", listed: int) -> None:
    from gcnet.cli.files import report_kinds
    from gcnet.data.images.check import IMAGE_ISSUE_KINDS

    found = Counter(problem.kind for problem in problems)
    print(f"\nproblems  {len(problems):,}" + (f" of {len(found)} kinds" if len(found) > 1 else ""))
    report_kinds(problems, IMAGE_ISSUE_KINDS, listed)


def _write(report: "ImagesReport", splits: "Mapping[str, FileImages]", folder: Path) -> None:
    from gcnet.cli.files import report_written
    from gcnet.storage import write_atomic
    from gcnet.text_files import json_bytes

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "splits": {
            name: {
                "images": split.images,
                "per_class": dict(split.per_class),
                "sizes": {f"{width}x{height}": count for (width, height), count in Counter(split.sizes).most_common()},
                "modes": dict(split.modes),
                "notes": list(split.notes),
            }
            for name, split in report.splits.items()
        },
        "problems": [asdict(problem) for problem in report.problems],
    }
    write_atomic(folder / "report.json", json_bytes(content))
    written = ["report.json"]
    if _draw(next(iter(splits.values())), folder / "images.png"):
        written.append("images.png")
    report_written(written, folder)


def _draw(images: "FileImages", path: Path) -> int:
    """A contact sheet of images spread evenly over the classes with their labels; returns how many it shows."""
    from gcnet.data.decode import ImageError
    from gcnet.data.images.sources import evenly_spread
    from gcnet.visualization.images import contact_sheet
    from gcnet.visualization.style import figure_caption

    pictures, titles = [], []
    for index in evenly_spread(range(len(images)), _SHEET):
        try:
            picture = images.read(index)
        except ImageError:
            continue
        picture.thumbnail((400, 400))
        pictures.append(picture)
        titles.append(printable(f"{images.classes[images.label(index)]}\n{Path(images.name(index)).name}"))
    if pictures:
        contact_sheet(pictures, titles, path, caption=figure_caption(f"{len(images):,} images"))
    return len(pictures)
