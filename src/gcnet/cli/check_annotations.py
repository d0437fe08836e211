"""COCO annotations checked for `gcnet check-data`: printed, written and fixed."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcnet.cli.check_data import Settings
    from gcnet.data.coco.inspection import Inspection


def check_annotations(settings: "Settings") -> int:
    """Inspect, print what was found, and write what --fix and --output ask for; 1 where there are faults."""
    from gcnet.cli import EXIT_FAILURE, EXIT_OK
    from gcnet.data.coco.inspection import inspect, read_annotations
    from gcnet.evaluation.progress import progress_bar
    from gcnet.storage import write_atomic

    content = read_annotations(settings.data)
    with progress_bar("images", len(content["images"]), shown=settings.images is not None) as progress:
        inspection = inspect(content, settings.images, workers=settings.workers, progress=progress)
    _print(content, inspection, settings)
    if settings.output is not None:
        _write(content, inspection, settings, settings.output)
    if settings.fix is not None:
        settings.fix.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(settings.fix, json.dumps(inspection.clean).encode())
        kept = ", ".join(f"{len(inspection.clean[part]):,} {part}" for part in ("annotations", "images", "categories"))
        print(f"\nwrote {settings.fix}, without the faults: {kept}")
    return EXIT_FAILURE if inspection.faults else EXIT_OK


def _print(content: dict[str, Any], inspection: "Inspection", settings: "Settings") -> None:
    from gcnet.data.coco.faults import KINDS

    clean = inspection.clean
    with_objects = {annotation["image_id"] for annotation in clean["annotations"]}
    crowds = sum(annotation.get("iscrowd", 0) for annotation in clean["annotations"])
    masks = sum(bool(annotation.get("segmentation")) for annotation in clean["annotations"])
    print(f"images       {len(content['images']):,}, {len(clean['images']) - len(with_objects):,} without an object")
    print(f"annotations  {len(content['annotations']):,}, {masks:,} with a mask, {crowds:,} crowds")
    print(f"categories   {len(content['categories']):,}")
    found = Counter(fault.kind for fault in inspection.faults)
    print(f"faults       {len(inspection.faults):,}" + (f" of {len(found)} kinds" if found else ""))
    for kind, mend in KINDS.items():
        of_kind = [fault for fault in inspection.faults if fault.kind == kind]
        if not of_kind:
            continue
        print(f"\n{kind}: {len(of_kind):,} (--fix: {mend})")
        for fault in of_kind[: settings.listed]:
            print(f"  {fault}")
        if len(of_kind) > settings.listed > 0:
            print(f"  and {len(of_kind) - settings.listed:,} more")
    if inspection.left_out:
        print(f"\n{inspection.left_out:,} annotations would go with their image or category")
    if settings.images is None:
        print("gcnet: the images were not looked at: give --images to check them too", file=sys.stderr)


def _write(content: dict[str, Any], inspection: "Inspection", settings: "Settings", folder: Path) -> None:
    from gcnet.evaluation.annotations import draw_annotated_sheet, plot_label_statistics
    from gcnet.storage import write_atomic

    folder.mkdir(parents=True, exist_ok=True)
    faults = {
        "annotations": str(settings.data),
        "counts": {part: len(content[part]) for part in ("images", "annotations", "categories")},
        "left_out_with_their_image_or_category": inspection.left_out,
        "faults": [asdict(fault) for fault in inspection.faults],
    }
    write_atomic(folder / "faults.json", (json.dumps(faults, indent=2) + "\n").encode())
    written = ["faults.json", "labels.png"]
    plot_label_statistics(inspection.clean, folder / "labels.png")
    if settings.images is not None and draw_annotated_sheet(inspection.clean, settings.images, folder / "images.png"):
        written.append("images.png")
    print(f"\nwrote {', '.join(written)} into {folder}")
