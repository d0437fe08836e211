"""COCO annotations and images of the size and make-up of train2017, generated."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480
CATEGORIES = 80
_CROWDS = 0.012  # share of annotations that are crowds, with run lengths
_VALUES = 44  # mean number of coordinates of a polygon in train2017


def write_stand_in(folder: Path, split: str, images: int, annotations: int, *, seed: int = 0) -> Path:
    """Write the annotations and images of a split in COCO's layout.

    Args:
        folder: Folder of the data set.
        split: "train2017" or "val2017".
        images: Number of images, hard links to one file.
        annotations: Number of annotations.
        seed: Seed of the polygons.

    Returns:
        The annotation file.
    """
    random = np.random.default_rng(seed)
    link_images(folder / split, images)
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    owners = np.sort(random.integers(images, size=annotations)).tolist()
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        file.write(", ".join(json.dumps(_image(number)) for number in range(images)))
        file.write('], "annotations": [')
        for number, owner in enumerate(owners):
            file.write(", " if number else "")
            file.write(json.dumps(_annotation(number + 1, owner + 1, random)))
        categories = [
            {"id": number, "name": f"class {number}", "supercategory": "thing"} for number in range(1, CATEGORIES + 1)
        ]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path


def link_images(folder: Path, count: int) -> None:
    """Write an image, and hard links to it; a file system takes a limited number of links to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / _file_name(number)
        if number % 30_000 == 0:
            first = path
            Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 40)).save(path)
        else:
            os.link(first, path)


def _file_name(number: int) -> str:
    return f"{number + 1:012d}.jpg"


def _image(number: int) -> dict[str, Any]:
    name = _file_name(number)
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": HEIGHT,
        "width": WIDTH,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{name}",
        "id": number + 1,
    }


def _annotation(number: int, image: int, random: np.random.Generator) -> dict[str, Any]:
    """An annotation with keys and precision as in COCO."""
    middle = random.uniform((0.2 * WIDTH, 0.2 * HEIGHT), (0.8 * WIDTH, 0.8 * HEIGHT))
    radius = float(np.exp(random.uniform(np.log(8), np.log(90))))
    about = {"image_id": image, "category_id": int(random.integers(1, CATEGORIES + 1)), "id": number}
    if random.random() < _CROWDS:
        left, top, side = int(middle[0]), int(middle[1]), int(radius)
        counts = [left * HEIGHT + top]
        for _ in range(side):
            counts += [side, HEIGHT - side]
        counts[-1] = WIDTH * HEIGHT - sum(counts[:-1])
        segmentation: Any = {"counts": counts, "size": [HEIGHT, WIDTH]}
        box, area = [left, top, side, side], side * side
    else:
        points = 3 + random.poisson(_VALUES / 2 - 3)
        angles = np.sort(random.uniform(0, 2 * np.pi, points))
        outline = middle + radius * random.uniform(0.6, 1, (points, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        outline = outline.clip(0, (WIDTH, HEIGHT)).round(2)
        segmentation = [outline.flatten().tolist()]
        sides = outline.max(0) - outline.min(0)
        box = [round(value, 2) for value in (*outline.min(0).tolist(), *sides.tolist())]
        rolled = np.roll(outline, 1, axis=0)
        area = abs(float((outline[:, 0] * rolled[:, 1] - outline[:, 1] * rolled[:, 0]).sum())) / 2
    crowd = int(isinstance(segmentation, dict))
    return {"segmentation": segmentation, "area": area, "iscrowd": crowd, **about, "bbox": box}
