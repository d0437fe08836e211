"""Training of detectors: COCO data, the detector's own losses, box and mask AP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.data.coco.annotated_images import CocoSplit
from gcnet.data.coco.issues import MASK_ISSUE_KINDS, issue_summary
from gcnet.data.coco.loading import (
    DetectionBatch,
    DetectionDataset,
    aspect_groups,
    build_augment,
    build_detection_loader,
    collate_detection,
)
from gcnet.data.coco.open import open_coco
from gcnet.data.loader import choose_workers
from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.data.settings import DataSettings
from gcnet.devices import autocast_dtype
from gcnet.errors import UserError, explained_out_of_memory, printable
from gcnet.models.model_file import save_model
from gcnet.models.registry import has_masks, without_masks
from gcnet.tasks.detection.costs import count_detector_flops
from gcnet.tasks.detection.inference import detector_results
from gcnet.tasks.detection.initial_weights import stored_conventions
from gcnet.tasks.detection.metrics import DetectorResult, evaluate_detector, metric_key
from gcnet.tasks.detection.network import SHORT_SIDE
from gcnet.training.checks import refuse_changed
from gcnet.training.checksums import describe_annotated
from gcnet.training.distributed import Processes
from gcnet.training.recipe import DETECTOR_PRESET
from gcnet.training.settings import TrainSettings
from gcnet.training.task import Evaluation, TrainingTask, first_validation_sample, micro_batches, unless_stopped

_SHOWN, _TILE = 12, 320
_CLASSIFIERS_AUGMENT = ("random_crop", "crop_scale", "pad", "auto_augment", "ra_magnitude", "erasing")
_CLASSIFIERS_RECIPE = ("label_smoothing", "mixup", "cutmix", "class_weights", "sampling")


class DetectionTraining(TrainingTask[DetectionBatch, DetectionBatch]):
    """Training of a detector.

    Args:
        train: training images.
        val: validation images, with the same categories.
        settings: settings of the run.
        processes: the processes and the rank of this one, which determine its share of every batch.

    Raises:
        UserError: there are no objects, no masks for a detector with masks, or a setting is for classifiers only.
    """

    def __init__(self, train: CocoSplit, val: CocoSplit, settings: TrainSettings, processes: Processes) -> None:
        _refuse_classifiers(settings)
        self.parts = train, val
        self.val = val.images
        self.train = train.images if settings.detector.empty_images else train.images.with_objects()
        for part, images in ((train, self.train), (val, self.val.with_objects())):
            if not len(images):
                raise _nothing_to_learn(part)
        self._predicts_masks = has_masks(settings.network.model)
        if self._predicts_masks:
            _require_masks(train, settings.network.model)
        self._evaluates_masks = self._predicts_masks and not _without_mask(val)
        self.metric = metric_key("mask" if self._evaluates_masks else "box")
        recipe = replace(settings.recipe, preset=settings.recipe.preset or DETECTOR_PRESET)
        fitted = recipe.with_batch_size_for(len(self.train), processes.world)
        self._reduced = fitted is not recipe
        self.settings, self.processes = replace(settings, recipe=fitted), processes
        self.classes, self.evaluation_images = train.images.classes, len(self.val)
        seed, detector = settings.machine.seed, settings.detector
        side = max(detector.min_size or (SHORT_SIDE,))
        augment = build_augment(settings.augment, jitter=detector.large_scale_jitter, side=side)
        share: Any = {"rank": processes.rank, "world": processes.world}
        images = fitted.images_per_step
        groups = None if detector.large_scale_jitter else aspect_groups(self.train)
        self._order = EpochSampler(len(self.train), batch_size=images, seed=seed, groups=groups, **share)
        self._samples = DetectionDataset(self.train, augment, seed=seed)
        self._in_order = EvaluationSampler(len(self.val), batch_size=1, **share)
        self._validation = DetectionDataset(self.val, with_objects=False)
        self.steps_per_epoch = self._order.steps_per_epoch

    def workers(self, device: torch.device) -> int:
        return choose_workers(self.settings.data.workers, device, batches=self.steps_per_epoch)

    def _loader(self, samples: DetectionDataset, order: Any, device: torch.device, *, persistent: bool = False) -> Any:
        pin = device.type == "cuda"
        return build_detection_loader(samples, order, self.workers(device), pin_memory=pin, persistent=persistent)

    @property
    def image_size(self) -> None:
        """None: images have many sizes."""

    def check(self, network: nn.Module) -> None:
        pass  # a detector by name takes images of any size

    def settled(self, data: DataSettings) -> DataSettings:
        return data

    def notes(self) -> list[str]:
        notes = list(dict.fromkeys(report for part in self.parts for report in part.reports()))
        empty = len(self.parts[0].images) - len(self.train)
        if empty:
            notes.append(f"{empty} training images without objects are skipped; `empty_images=True` keeps them")
        with_mask, objects = self.parts[0].mask_counts()
        if self._predicts_masks and with_mask < objects:
            notes.append(f"{objects - with_mask:,} of {objects:,} training objects have no mask: no mask loss for them")
        if self._predicts_masks and not self._evaluates_masks:
            val = self.parts[1]
            boxes_only, total = _without_mask(val), val.images.index.count
            notes.append(
                f"{boxes_only:,} of {total:,} validation objects have no mask: box AP chooses the best weights"
            )
        if self.settings.detector.conventions is None and (conventions := stored_conventions(self.settings)):
            notes.append(f"conventions {conventions}, those of {self.settings.network.weights}")
        if self._reduced:
            size, world = self.settings.recipe.batch_size, self.processes.world
            shares = f" in {world} processes" if world > 1 else ""
            notes.append(f"the default batch size is reduced to {size} for {len(self.train):,} training images{shares}")
        return notes

    def batches(self, first_step: int, device: torch.device) -> Iterator[DetectionBatch]:
        self._order.start(first_step)
        loader = self._loader(self._samples, self._order, device, persistent=True)
        while True:
            yield from loader

    def prepare(self, batch: DetectionBatch, step: int, device: torch.device) -> DetectionBatch:  # noqa: ARG002
        return batch.to(device)

    def split(self, batch: DetectionBatch, parts: int) -> list[DetectionBatch]:
        return [batch.part(where) for where in micro_batches(len(batch), parts)] or [batch]

    def losses(self, network: nn.Module, batch: DetectionBatch) -> dict[str, Tensor]:
        """Compute the losses of the detector.

        Args:
            network: in training mode.
            batch: prepared, with at least one image.

        Returns:
            Objectness and box losses of the proposals, class, box and mask losses of the heads, each of shape ().
        """
        if self._predicts_masks:
            return network(batch.images, batch.targets)
        return network(batch.images, [{name: target[name] for name in ("boxes", "labels")} for target in batch.targets])

    def sample(self, device: torch.device) -> DetectionBatch:
        return collate_detection([first_validation_sample(DetectionDataset(self.val, with_objects=False))]).to(device)

    def forward(self, network: nn.Module, batch: DetectionBatch) -> object:
        return detector_results(network, batch.images, batch.image_ids, self.val.category_ids)

    def input_size(self, network: nn.Module) -> tuple[int, int]:
        transform: Any = network.transform
        return transform.min_size[-1], transform.max_size

    def describe_data(self, size: tuple[int, int]) -> str:
        short, long = size
        sides = f"a short side of {short} and " if short < long else ""
        return (
            f"{len(self.train):,} training and {self.evaluation_images:,} validation images, {len(self.classes)} "
            f"classes of objects, resized to {sides}a long side of at most {long:,} pixels"
        )

    def files(self) -> Iterator[tuple[str, str]]:
        for split, part in zip(("train", "val"), self.parts, strict=True):
            for name, content in part.contents():
                yield f"{split}/{name}", content

    def describe_augmentation(self) -> str:
        augment, detector = self.settings.augment, self.settings.detector
        scales = detector.min_size or ()
        parts = [f"flip {augment.hflip:g}"] if augment.hflip else []
        parts += [f"color jitter {augment.color_jitter:g}"] if augment.color_jitter else []
        if jitter := detector.large_scale_jitter:
            parts.append(f"large-scale jitter {jitter[0]:g} to {jitter[1]:g}")
        parts += [f"short sides {' '.join(map(str, scales))}"] if len(scales) > 1 else []
        return ", ".join(parts) or "none"

    def flops(self, network: nn.Module) -> int:
        return count_detector_flops(network, size=self.input_size(network))

    def evaluate(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Evaluation | None:
        def run(count: Callable[[int], None]) -> DetectorResult:
            return evaluate_detector(
                network,
                self._loader(self._validation, self._in_order, device),
                lambda: self.val.content,
                self.val.category_ids,
                device=device,
                autocast=autocast_dtype(self.settings.machine.precision, device),
                progress=count,
                processes=self.processes,
            )

        world = self.processes.world
        advice = "use a smaller `min_size` and `max_size`, or `precision=bf16`"
        with explained_out_of_memory(self._in_order.batch_size, "validation", advice=advice):
            result = unless_stopped(run, stop, lambda done: progress(min(done * world, self.evaluation_images)))
        if result is None:
            return None
        metrics = {
            metric_key(kind, name): of_kind.numbers[name] or 0.0
            for kind, of_kind in result.kinds().items()
            for name in ("AP", "AP50")
        }
        skipped = {image.name: image.reason for image in result.skipped}
        return Evaluation(metrics, result.boxes.images, skipped, result)

    def save(self, network: nn.Module, path: Path) -> None:
        save_model(network, path, class_names=list(self.classes), category_ids=list(self.val.category_ids))

    def draw_inputs(self, batch: DetectionBatch, path: Path) -> None:
        from gcnet.visualization.annotations import draw_targets
        from gcnet.visualization.images import contact_sheet

        count = min(len(batch), _SHOWN)
        pictures = [draw_targets(batch.images[index], batch.targets[index], side=_TILE) for index in range(count)]
        titles = [_title(batch.targets[index]["labels"], self.classes) for index in range(count)]
        caption = self._caption(f"{count} training images after augmentation")
        contact_sheet(pictures, titles, path, columns=4, tile=_TILE, caption=caption)

    def draw_curves(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        from gcnet.visualization.plots import plot_learning_curves

        scores = (
            {"Masks": {"segm_AP_fraction": "mask AP", "segm_AP50_fraction": "mask AP50"}}
            if self.metric == "segm_AP_fraction"
            else {}
        )
        scores |= {"Boxes": {"bbox_AP_fraction": "box AP", "bbox_AP50_fraction": "box AP50"}}
        caption = self._caption(f"{self.evaluation_images:,} validation images")
        plot_learning_curves(rows, folder / "curves.png", scores=scores, loss="sum of the losses", caption=caption)

    def _caption(self, *parts: str) -> str:
        from gcnet.visualization.style import figure_caption

        return figure_caption(self.settings.data.name, self.settings.network.title, *parts)

    def draw_evaluation(self, evaluation: Evaluation, folder: Path, *, title: str) -> None:
        pass  # `gcnet evaluate` draws the figures of a detector


def _nothing_to_learn(part: CocoSplit) -> UserError:
    annotations = part.images.content["annotations"]
    crowds = sum(annotation.get("iscrowd", 0) for annotation in annotations)
    reason = ""
    if annotations and crowds == len(annotations):
        reason = f": all {crowds:,} annotations are crowds (iscrowd 1)"
    elif annotations and not crowds:
        bbox = annotations[0]["bbox"]
        reason = f": all {len(annotations):,} boxes lie outside of their images, such as {bbox!r:.80}"
    return UserError(f"{printable(part.place)}: no image has an object to train on or to evaluate{reason}")


def open_detection(settings: TrainSettings, processes: Processes) -> DetectionTraining:
    """Open the data of the settings for training a detector.

    Generated images do not depend on the seed of the run.

    Args:
        settings: settings of the run.
        processes: processes that share the images.

    Returns:
        The training task.

    Raises:
        UserError: the data do not exist, do not fit the recipe, or differ between the processes.
    """
    train, val = open_coco(settings.data, split_seed=settings.machine.seed)
    processes.require_same(lambda: describe_annotated(train.images, val.images))
    return DetectionTraining(train, val, settings, processes)


def _require_masks(part: CocoSplit, model: str) -> None:
    if not part.mask_counts()[0]:
        skipped = [issue for issue in part.issues if issue.kind in MASK_ISSUE_KINDS]
        reason = f"no mask that can be used ({issue_summary(skipped)})" if skipped else "boxes and no masks"
        raise UserError(
            f"{printable(part.place)} has {reason}, but {model} needs masks: use {without_masks(model)}, a detector "
            f"without masks"
        )


def _without_mask(part: CocoSplit) -> int:
    """Count the annotations without a mask, including crowds; masks are evaluated if there are none."""
    return part.images.index.boxes_only


def _refuse_classifiers(settings: TrainSettings) -> None:
    """Refuse settings of classifiers."""
    detector = settings.detector
    if detector.max_size is not None and detector.min_size is None:
        raise UserError("`max_size` requires `min_size`")
    network = f"{settings.network.model} is a detector"
    refuse_changed(settings.augment, _CLASSIFIERS_AUGMENT, "classifiers", network)
    refuse_changed(settings.recipe, _CLASSIFIERS_RECIPE, "classifiers", network)
    given = settings.data.preprocessing.given()
    if settings.data.is_generated:
        given = [flag for flag in given if not flag.startswith("`image_size=")]
    if given:
        raise UserError(f"{given[0]} is only for classifiers, but {network}: give `min_size` and `max_size`")


def _title(labels: Tensor, classes: Sequence[str]) -> str:
    counts = torch.bincount(labels.cpu(), minlength=len(classes) + 1)[1:]
    top = counts.argsort(descending=True, stable=True)[:3].tolist()
    return ", ".join(f"{int(counts[index])} {printable(classes[index])}" for index in top if counts[index]) or "nothing"
