"""`gcnet check-data` for COCO annotations: prints, writes and fixes issues."""

import json
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnet.arguments import arguments_of
from gcnet.cli.wording import with_flags
from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from gcnet.cli.check_splits import CheckedFile
    from gcnet.data.coco.inspection import Inspection
    from gcnet.workflows.check_data import CheckDataSettings


def check_annotations(settings: "CheckDataSettings") -> int:
    """Check an annotation file, or all of a folder; 1 where there are issues."""
    from gcnet.cli import EXIT_FAILURE
    from gcnet.cli.check_splits import compare_splits
    from gcnet.data.coco.layouts import find_annotation_files, missing_annotations_error

    if not settings.data.is_dir():
        return _check_file(settings).code
    layout = find_annotation_files(settings.data)
    files = layout.files()
    if not files:
        raise missing_annotations_error(layout, "train")
    if settings.fix is not None and len(files) > 1:
        listed = ", ".join(printable(file) for file in files)
        raise UserError(f"--fix takes one annotation file, and {printable(settings.data)} has {len(files)}: {listed}")
    checked = {}
    for number, file in enumerate(files):
        print(f"{'' if number == 0 else chr(10)}{printable(file)}")
        name = "-".join(file.relative_to(settings.data).with_suffix("").parts)
        output = None if settings.output is None else settings.output / name if len(files) > 1 else settings.output
        checked[file] = _check_file(replace(settings, data=file, output=output), checks_images=True)
    splits = [split for split in (layout.train, layout.val, layout.test) if split]
    if all(len(split) == 1 for split in splits) and compare_splits(
        [checked[one] for (one,) in splits], settings.max_listed
    ):
        return EXIT_FAILURE
    return max(one.code for one in checked.values())


def _check_file(settings: "CheckDataSettings", *, checks_images: bool = False) -> "CheckedFile":
    """Inspect, print what was found, and write what --fix and --output ask for; code 1 where there are issues."""
    from gcnet.cli import EXIT_FAILURE, EXIT_OK
    from gcnet.cli.check_splits import checked_file
    from gcnet.cli.progress import progress_bar
    from gcnet.data.coco.inspection import inspect, read_annotations

    content = read_annotations(settings.data)
    folder, problem = _image_folder(settings, content)
    if settings.images is not None or (checks_images and folder is not None):
        settings = replace(settings, images=folder)
    lacks_images = checks_images and folder is None
    checks_images = settings.images is not None
    with progress_bar("images", len(content["images"]), shown=checks_images) as progress:
        inspection = inspect(content, folder, decodes=checks_images, workers=settings.workers, progress=progress)
    _print(content, inspection, settings)
    if lacks_images:
        problem = with_flags(problem, arguments_of(type(settings)))
        print(f"gcnet: image files not checked: {problem}", file=sys.stderr)
    elif not checks_images:
        print("gcnet: image files not checked; pass --images", file=sys.stderr)
    if settings.output is not None:
        _write(content, inspection, settings, settings.output)
    if settings.fix is not None:
        _fix(content, inspection, settings.fix)
    code = EXIT_FAILURE if inspection.issues or lacks_images else EXIT_OK
    return checked_file(settings.data, code, inspection.clean, folder)


def _image_folder(settings: "CheckDataSettings", content: dict[str, Any]) -> tuple[Path | None, str]:
    """The folder of the images, in --images or beside the annotation file; None, and the reason, if it has none."""
    from gcnet.data.coco.inspection import image_names
    from gcnet.data.coco.layouts import image_folder

    try:
        return image_folder(settings.data, image_names(content), images=settings.images), ""
    except UserError as error:
        return settings.images, str(error)


def _print(content: dict[str, Any], inspection: "Inspection", settings: "CheckDataSettings") -> None:
    from gcnet.cli.files import report_kinds
    from gcnet.data.coco.issues import ISSUE_KINDS

    clean = inspection.clean
    with_objects = {annotation["image_id"] for annotation in clean["annotations"]}
    crowds = sum(annotation["iscrowd"] for annotation in clean["annotations"])
    masks = sum(bool(annotation.get("segmentation")) for annotation in clean["annotations"])
    kept = {part: f"{len(content[part]):,}, {len(clean[part]):,} usable" for part in ("images", "annotations")}
    print(f"images       {kept['images']}, {len(clean['images']) - len(with_objects):,} of these without an object")
    print(f"annotations  {kept['annotations']}, {masks:,} of these with a mask, {crowds:,} crowds")
    print(f"categories   {len(content['categories']):,}, {len(clean['categories']):,} usable")
    kinds = len({issue.kind for issue in inspection.issues})
    print(f"issues       {len(inspection.issues):,}" + (f" of {kinds} kinds" if kinds else ""))
    headings = {kind: f"{what.action}: {what.remedy}" for kind, what in ISSUE_KINDS.items()}
    report_kinds([*inspection.issues, *inspection.notes], headings, settings.max_listed)
    if inspection.dropped:
        print(f"\n{inspection.dropped:,} annotations are skipped together with their image or category")


def _write(content: dict[str, Any], inspection: "Inspection", settings: "CheckDataSettings", folder: Path) -> None:
    from gcnet.data.coco.inspection import PARTS
    from gcnet.storage import write_atomic
    from gcnet.visualization.annotations import draw_annotated_sheet, plot_label_statistics
    from gcnet.visualization.style import figure_caption

    folder.mkdir(parents=True, exist_ok=True)
    clean = inspection.clean
    report = {
        "annotations": str(settings.data),
        "counts": {part: len(content[part]) for part in PARTS},
        "usable": {part: len(clean[part]) for part in PARTS},
        "skipped_with_their_image_or_category": inspection.dropped,
        "kinds": dict(Counter(issue.kind for issue in inspection.issues)),
        "issues": [asdict(issue) | {"action": issue.action} for issue in inspection.issues],
        "notes": [asdict(issue) for issue in inspection.notes],
    }
    write_atomic(folder / "issues.json", (json.dumps(report, indent=2, default=str) + "\n").encode())
    written = ["issues.json"]
    counts = f"{len(clean['images']):,} images, {len(clean['annotations']):,} objects"
    caption = figure_caption(Path(str(settings.data)).name, counts)
    if clean["annotations"]:
        plot_label_statistics(clean, folder / "labels.png", caption=caption)
        written.append("labels.png")
    if settings.images is not None and draw_annotated_sheet(
        clean, settings.images, folder / "images.png", caption=caption
    ):
        written.append("images.png")
    print(f"\nwrote {', '.join(written)} into {folder}")


def _fix(content: dict[str, Any], inspection: "Inspection", path: Path) -> None:
    """Write a copy without the issues.

    Raises:
        UserError: nothing would be left, or the format of the boxes is not certain.
    """
    from gcnet.data.coco.issues import summary
    from gcnet.storage import write_atomic

    clean = inspection.clean
    if not inspection.box_format.is_certain:
        raise UserError(f"--fix wrote nothing: boxes may be {inspection.box_format}; convert them")
    for part in ("images", "annotations"):
        if content[part] and not clean[part]:
            raise UserError(
                f"--fix wrote nothing: none of the {len(content[part]):,} {part} can be used "
                f"({summary(inspection.issues)})"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(clean).encode())
    kept = ", ".join(f"{len(clean[part]):,} of {len(content[part]):,} {part}" for part in ("images", "annotations"))
    print(f"\nwrote {path}, without the issues: {kept}")
