"""Random command lines: flags of a command with valid and odd values, on a pool of data and model files."""

import io
import json
import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from PIL import Image

from gcnet import cli
from gcnet.arguments import arguments_of
from gcnet.data.scenes import Scenes
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model

WORDS = ("", "x", "gc", "none", "layer1", "0.5", "a=b", "ratio=4", "*", "\u732b", "-", "../x", "c3")
INTEGERS = ("1", "2", "3", "4", "8", "16", "1", "2", "4", "0", "-1", "many", "1.5")
FLOATS = ("0", "0.1", "0.5", "0.9", "1", "2", "0.1", "0.5", "-1", "nan", "inf", "1e9", "high")

# Flags that every command line below sets, and flags that are slow, use the network or start processes.
FIXED = {
    "model",
    "results",  # refused beside the model that every line has
    "data",
    "download",
    "workers",
    "jobs",
    "device",
    "output",
    "resume",
    "take-over",  # refused without resume
    "download-dir",
    "rois-per-image",
    "seeds",
    "steps",
    "measure",
    "compile",
}


@dataclass(frozen=True)
class Pool:
    """Paths to choose from, by what a command takes."""

    classification: tuple[str, ...]
    detection: tuple[str, ...]
    scenes: tuple[str, ...]
    odd: tuple[str, ...]
    classifiers: tuple[str, ...]
    detectors: tuple[str, ...]
    odd_models: tuple[str, ...]
    run: str

    @property
    def data(self) -> tuple[str, ...]:
        """All data, of each kind and damaged."""
        return self.classification + self.detection + self.odd


def write_pool(folder: Path) -> Pool:
    """Write small data sets and model files, valid and damaged, into the folder."""
    generator = np.random.default_rng(7)

    def photo(path: Path, width: int = 11, height: int = 9) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)

    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            for index in range(count):
                photo(folder / "photos" / split / name / f"{index}.png")
                photo(folder / "mixed" / split / name / f"{index}.jpg", 5 + 3 * index, 7)
    for name in ("cat", "dog"):
        for index in range(5):
            photo(folder / "flat" / name / f"{index}.png")
            photo(folder / "one" / "train" / "cat" / f"{index}.png")
            photo(folder / "valid" / ("train", "valid")[index % 2] / name / f"{index}.png")
    (folder / "mixed" / "train" / "cat" / "0.jpg").write_bytes(b"<html>not an image</html>")
    (folder / "mixed" / "train" / "dog" / "1.jpg").write_bytes(b"")
    (folder / "mixed" / "val" / "dog" / "2.jpg").write_bytes((folder / "mixed/val/dog/1.jpg").read_bytes()[:60])
    rows = "".join(
        f"photos/{split}/{name}/{index}.png,{name},{split}\n"
        for split, count in (("train", 6), ("val", 3))
        for name in ("cat", "dog")
        for index in range(count)
    )
    (folder / "table.csv").write_text("path,label,split\n" + rows)
    (folder / "headless.csv").write_text(rows)
    (folder / "missing.csv").write_text("path,label,split\ngone.png,cat,train\ngone2.png,dog,val\n")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")
    for split in ("train", "val"):
        Scenes(4, size=48, distance=8, split=split).write_coco(
            folder / "coco" / split, folder / "coco" / "annotations" / f"instances_{split}.json"
        )
    content = json.loads((folder / "coco" / "annotations" / "instances_train.json").read_text())
    boxes_only = [{key: item[key] for key in item if key != "segmentation"} for item in content["annotations"]]
    text_ids = [{**item, "category_id": str(item["category_id"])} for item in content["annotations"]]
    faulty = [{**item, "bbox": [0, 0, -1, 1]} for item in content["annotations"]]
    for name, changed in (("boxes", boxes_only), ("text", text_ids), ("faulty", faulty), ("nothing", [])):
        (folder / "coco" / f"{name}.json").write_text(json.dumps(content | {"annotations": changed}))
    (folder / "list.json").write_text("[1, 2]")
    torch.manual_seed(0)
    _train(folder / "photos", folder / "run")
    _save("cifar_resnet20", folder / "classifier.safetensors", classes=("cat", "dog"))
    _save("mask_rcnn_cifar_resnet20", folder / "detector.safetensors", classes=("reference", "dark", "bright"))
    (folder / "cut.safetensors").write_bytes((folder / "classifier.safetensors").read_bytes()[:5000])
    stream = io.BytesIO()
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 3)}}, stream)
    (folder / "other.pth").write_bytes(stream.getvalue())

    def paths(*names: str) -> tuple[str, ...]:
        return tuple(str(folder / name) for name in names)

    return Pool(
        classification=(*paths("photos", "mixed", "valid", "table.csv"), "scenes"),
        detection=(*paths("coco", "coco/annotations/instances_train.json"), "scenes"),
        scenes=paths("coco/val", "coco/train/000001.png"),
        odd=(
            *paths("flat", "one", "empty", "headless.csv", "missing.csv", "notes.txt", "list.json", "nowhere"),
            *paths("coco/boxes.json", "coco/text.json", "coco/faulty.json", "coco/nothing.json", "photos/train"),
            "cifar10",
            "s3://bucket/photos",
        ),
        classifiers=paths("classifier.safetensors"),
        detectors=paths("detector.safetensors"),
        odd_models=(
            *paths("cut.safetensors", "other.pth", "notes.txt", "empty", "nowhere.pth"),
            "resnet18",
            "gc_resnet5",
        ),
        run=str(folder / "run"),
    )


def _train(data: Path, run: Path) -> None:
    """Train two steps of a run that may go on for two more."""
    words = f"train --model cifar_resnet20 --data {data} --image-size 16 --batch-size 4 --steps 2 --no-plots"
    assert cli.main([*shlex.split(words), "--output", str(run)]) == cli.EXIT_OK


def _save(name: str, path: Path, *, classes: tuple[str, ...]) -> None:
    detector = name.startswith("mask_rcnn")
    save_model(
        create_model(name, num_classes=len(classes), detector={"image_size": (48, 64)} if detector else None),
        path,
        class_names=classes,
        preprocessing=None if detector else {"image_size": 16},
        category_ids=range(1, len(classes) + 1) if detector else None,
    )


def flags_of(command: str) -> dict[str, Any]:
    """Every flag of a command and the type of its value."""
    settings = import_module(f"gcnet.cli.{command.replace('-', '_')}").Settings
    flags = {argument.name.replace("_", "-"): argument for argument in arguments_of(settings)}
    return {name: flag.kind for name, flag in flags.items() if name not in FIXED and not flag.positional}


def random_value(kind: Any, choose: random.Random) -> list[str]:
    """What may follow a flag of this type on the command line."""
    origin, inner = get_origin(kind), [one for one in get_args(kind) if one is not NoneType]
    if origin in (Union, UnionType):
        return random_value(inner[0], choose)
    if origin is Literal:
        return [choose.choice([*map(str, inner), *map(str, inner), "other"])]
    if origin is tuple:
        if inner[-1] is not Ellipsis and choose.random() < 0.5:  # all at once would rarely be valid
            return ["0.5"] * len(inner)
        count = choose.randrange(1, 4) if inner[-1] is Ellipsis else len(inner)
        return [word for _ in range(count) for word in random_value(inner[0], choose)]
    if kind is bool:
        return []
    return [choose.choice({int: INTEGERS, float: FLOATS}.get(kind, WORDS))]


def random_flags(command: str, pool: Pool, choose: random.Random) -> list[str]:
    """Up to two random flags of the command, with values."""
    flags = flags_of(command)
    known: dict[str, Sequence[str]] = {
        "val": pool.data,
        "images": pool.data,
        "weights": pool.classifiers + pool.odd_models,
        "backbone-weights": pool.classifiers + pool.odd_models,
        "image-size": ("8", "16", "32", "33", "0", "large"),
        "min-size": ("32", "48", "0", "-1"),
        "max-size": ("48", "64", "0", "-1"),
        "batch-size": ("1", "2", "3", "4", "8", "0"),
        "limit-train": ("1", "2", "4", "0"),
        "limit-val": ("1", "2", "0"),
        "limit": ("1", "2", "3", "0"),
        "resize": ("16", "20", "32", "8", "0"),
        "crop-pct": ("0.5", "0.9", "1", "0", "2"),
        "scene-distance": ("4", "8", "many"),
        "val-fraction": ("0.2", "0.5", "1"),
        "detections-per-image": ("1", "5", "100", "0"),
        "seed": ("0", "1", "7", "many"),
    }
    words = []
    for name in choose.sample(sorted(flags), choose.choice((0, 0, 0, 1, 1, 2))):
        value = [choose.choice(known[name])] if name in known else random_value(flags[name], choose)
        words += [f"--{name}", *value]
    return words


class CommandLines:
    """Random command lines without `--output`, by a name for what they do; `KINDS` lists the names."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self.pool = pool
        self.choose = random.Random(seed)

    def line(self, kind: str) -> list[str]:
        """A random command line."""
        command, *words = getattr(self, f"_{kind.replace(' ', '_')}")()
        return [command, *words, *random_flags(command, self.pool, self.choose)]

    def _mostly(self, usual: Sequence[str], rare: Sequence[str]) -> str:
        return self.choose.choice(usual if self.choose.random() < 0.9 else rare)

    def _train_classifier(self) -> list[str]:
        model = self._mostly(("cifar_resnet20", "gc_cifar_resnet20", "scenes_resnet"), ("gc_resnet5", "resnet18"))
        data = self._mostly(self.pool.classification, self.pool.odd + self.pool.detection)
        batch, size = self.choose.choice(("2", "4")), "32" if data == "scenes" else "16"
        limits = ["--limit-train", "8", "--limit-val", "4"]
        sizes = ["--batch-size", batch, "--image-size", size]
        return ["train", "--model", model, "--data", data, *sizes, *limits, "--steps", "2", "--no-plots"]

    def _train_detector(self) -> list[str]:
        model = self.choose.choice(
            ("mask_rcnn_cifar_resnet20", "mask_rcnn_gc_cifar_resnet20", "faster_rcnn_cifar_resnet20")
        )
        data = self._mostly(self.pool.detection, self.pool.odd + self.pool.classification)
        sizes = ["--min-size", "48", "--max-size", "64", "--rois-per-image", "16", "--batch-size", "2"]
        limits = ["--limit-train", "4", "--limit-val", "2"]
        return ["train", "--model", model, "--data", data, *sizes, *limits, "--steps", "2", "--no-plots"]

    def _evaluate(self) -> list[str]:
        pool, classifier = self.pool, self.choose.random() < 0.5
        model = self._model(classifier)
        data = self._mostly(pool.classification[:-1] if classifier else pool.detection, pool.odd)
        return ["evaluate", "--model", model, "--data", data, "--limit", "3"]

    def _predict(self) -> list[str]:
        classifier = self.choose.random() < 0.6
        images = self._images() if classifier else [self._mostly(self.pool.scenes, self.pool.odd)]
        return ["predict", *images, "--model", self._model(classifier)]

    def _analyze(self) -> list[str]:
        return ["analyze", self._model(self.choose.random() < 0.7), *self._images(), "--limit", "1"]

    def _check_data(self) -> list[str]:
        return ["check-data", self.choose.choice(self.pool.data)]

    def _cost(self) -> list[str]:
        return ["cost", self._mostly(("cifar_resnet20", "gc_resnet18", *self.pool.classifiers), self.pool.odd)]

    def _resume(self) -> list[str]:
        data = self._mostly((self.pool.classification[0],), self.pool.data)
        words = self.choose.choice(([], ["--steps", "3"], ["--epochs", "1"], ["--data", data], ["--workers", "0"]))
        return ["train", "--resume", self._mostly(("run",), self.pool.odd), *words]

    def _list(self) -> list[str]:
        return self.choose.choice((["models", "--model", "cifar_resnet20"], ["blocks"]))

    def _model(self, classifier: bool) -> str:
        pool = self.pool
        usual, other = (pool.classifiers, pool.detectors) if classifier else (pool.detectors, pool.classifiers)
        return self._mostly(usual, pool.odd_models + other)

    def _images(self) -> list[str]:
        files = self.pool.classification[:3]
        return [self._mostly(files, self.pool.odd) for _ in range(self.choose.choice((1, 1, 2)))]
