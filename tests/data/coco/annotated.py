"""Small annotated images in the layouts of annotation tools."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
WIDTH, HEIGHT = 23, 17


def content(names: list[str], **more: Any) -> dict[str, Any]:
    """Annotations of images with one object each, a rectangle with its mask."""
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, start=1)]
    annotations = [
        {
            "id": image["id"],
            "image_id": image["id"],
            "category_id": 1 + image["id"] % 2,
            "bbox": [3, 2, 10, 8],
            "area": 80,
            "iscrowd": 0,
            "segmentation": [[3, 2, 13, 2, 13, 10, 3, 10]],
        }
        for image in images
    ]
    return {"images": images, "categories": CATEGORIES, "annotations": annotations, **more}


def write_images(folder: Path, names: list[str]) -> list[str]:
    """Write images, and return their names."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number * 20, 90, 40)).save(path)
    return names


def write_json(path: Path, value: object) -> Path:
    """Write a file of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_layout(root: Path, files: dict[str, tuple[str, str]]) -> None:
    """Annotation files by path, each with the folder of its images and how they are named in front of the name."""
    for number, (file, (folder, prefix)) in enumerate(files.items()):
        names = [f"{number}_{index}.png" for index in range(3 - number)]
        write_images(root / folder, names)
        write_json(root / file, content([prefix + name for name in names]))
