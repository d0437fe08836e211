"""The detection task: boxes, classes and masks."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import nn

from gcnet.errors import UserError
from gcnet.models.registry import has_masks, is_detector, without_masks
from gcnet.tasks.base import Task
from gcnet.tasks.detection.costs import DetectorCosts
from gcnet.tasks.scores import SHORT_RECIPE, Demonstration, Score
from gcnet.tasks.settings import AnalyzeSettings, CheckDataSettings, EvaluateSettings, PredictSettings
from gcnet.training.distributed import Processes
from gcnet.training.network_settings import DetectorSettings
from gcnet.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gcnet.data.images.image_input import ImageInput
    from gcnet.exporters.graph import ExportGraph
    from gcnet.exporters.settings import ExportSettings
    from gcnet.models.card import ModelCard
    from gcnet.tasks.detection.evaluate import DetectorEvaluation
    from gcnet.tasks.detection.predictions import Detections
    from gcnet.tasks.detection.trained import TrainedDetector
    from gcnet.tasks.detection.training import DetectionTraining
    from gcnet.tasks.loaded import LoadedModel
    from gcnet.tasks.predictor import Inference, Predictor
    from gcnet.tasks.results import AttentionReader, DataReport, MeasuredImages
    from gcnet.training.task import TrainingTask

MASK_AP = Score("segm_AP_fraction", "mask AP", "mask AP", "", "points of AP", is_share=False)
BOX_AP = Score("bbox_AP_fraction", "box AP", "box AP", "", "points of AP", is_share=False)
_LISTED = 3  # maximum number of classes in a caption


class Detection(Task):
    """Object detection and instance segmentation: faster_rcnn_*, mask_rcnn_* and cascade_mask_rcnn_*."""

    name = "detection"
    noun = "detector"
    data_noun = "annotations"
    hub_task = "object-detection"
    own_settings = MappingProxyType(
        {
            EvaluateSettings: ("results", "detections_per_image", "repair"),
            CheckDataSettings: ("fix", "convert"),
            PredictSettings: ("threshold", "classes", "detections_per_image", "labels"),
        }
    )
    reads_results = True
    all_scores = (MASK_AP, BOX_AP)
    demonstration = Demonstration(
        {**SHORT_RECIPE, "steps": 400, "batch_size": 8, "lr": 0.003, "warmup_epochs": 0.1, "schedule": "cosine"},
        train=3_200,
        val=200,
    )
    costs = DetectorCosts()
    preset = ("paper-1x", "paper-1x")
    names_note = (
        "Detectors are mask_rcnn_NAME, cascade_mask_rcnn_NAME and, without masks, faster_rcnn_NAME, such as\n"
        "mask_rcnn_gc_resnet50; with _dcn behind resnet50, resnet101 or a ResNeXt, c3 to c5 have deformable\n"
        "convolutions."
    )

    def owns(self, model: str) -> bool:
        return is_detector(model)

    def with_defaults(self, settings: TrainSettings) -> TrainSettings:
        from gcnet.tasks.detection.network import with_detection_defaults

        return with_detection_defaults(settings)

    def open_training(self, settings: TrainSettings, processes: Processes) -> "DetectionTraining":
        from gcnet.tasks.detection.training import open_detection

        return open_detection(settings, processes)

    def build_network(
        self,
        settings: TrainSettings,
        num_classes: int,
        *,
        image_size: int | None = None,  # noqa: ARG002
    ) -> nn.Module:
        from gcnet.tasks.detection.network import build_detector

        return build_detector(settings, num_classes)

    def open_file(self, path: "Path", model: nn.Module, card: "ModelCard") -> "TrainedDetector":
        from gcnet.tasks.detection.trained import detector_of_file

        return detector_of_file(path, model, card)

    def open_by_name(self, name: str, weights: str, image_size: int | None, *, download: bool) -> "TrainedDetector":  # noqa: ARG002
        from gcnet.tasks.detection.trained import detector_by_name

        return detector_by_name(name, weights, download=download)

    def evaluate(self, loaded: "LoadedModel", settings: EvaluateSettings, processes: Processes) -> "DetectorEvaluation":
        from gcnet.tasks.detection.evaluate import evaluate

        return evaluate(loaded, settings, processes)

    def evaluate_results(self, settings: EvaluateSettings, processes: Processes) -> "DetectorEvaluation":
        from gcnet.tasks.detection.evaluate import evaluate_results

        return evaluate_results(settings, processes)

    def configured_predictor(
        self, loaded: "LoadedModel", settings: PredictSettings
    ) -> "tuple[Predictor, dict[str, Any]]":
        from gcnet.tasks.detection.predict import configured_predictor

        return configured_predictor(loaded, settings)

    def predict(
        self, loaded: "LoadedModel", images: "Sequence[ImageInput]", settings: PredictSettings, processes: "Processes"
    ) -> "Detections":
        from gcnet.tasks.detection.predict import predict

        return predict(loaded, images, settings, processes)

    def predictor(self, loaded: "LoadedModel", inference: "Inference") -> "Predictor":
        from gcnet.tasks.detection.predict import ObjectPredictor

        if inference.image_size is not None:
            raise UserError("`image_size` is an option of classifiers: a detector resizes images as in its training")
        return ObjectPredictor(cast(Any, loaded.trained), loaded.origin, inference)

    def export_graph(self, loaded: "LoadedModel", settings: "ExportSettings") -> "ExportGraph":
        from gcnet.tasks.detection.export import detector_graph

        return detector_graph(loaded, settings)

    def recognizes_data(self, settings: CheckDataSettings) -> bool:
        from gcnet.data.coco.open import is_coco

        return settings.convert is not None or is_coco(settings.data)

    def check_data(self, settings: CheckDataSettings) -> "DataReport":
        from gcnet.tasks.detection.check_data import check_annotations
        from gcnet.tasks.detection.convert_labels import convert_labels

        if settings.convert is not None:
            return convert_labels(settings.data, settings.convert, settings.max_listed)
        return check_annotations(settings)

    def attention_reader(self, loaded: "LoadedModel", settings: AnalyzeSettings) -> "AttentionReader":  # noqa: ARG002
        from gcnet.tasks.detection.attention import attention_reader

        return attention_reader(loaded)

    def measured_images(
        self, loaded: "LoadedModel", settings: AnalyzeSettings, processes: "Processes"
    ) -> "MeasuredImages":
        from gcnet.tasks.detection.attention import AnnotatedImages

        return AnnotatedImages(loaded, settings, processes)

    def describe_origin(self, training: TrainSettings) -> str:
        detector = training.detector
        backbone = detector.backbone_weights
        origin = f"backbone from {backbone}" if backbone else super().describe_origin(training)
        return f"{origin}, norms {detector.norm}, box head {detector.box_head}, conventions of {detector.conventions}"

    def start_from(self, weights: str | None) -> dict[str, Any]:
        return {"detector": DetectorSettings(norm="sync", backbone_weights=weights)}

    def check_data_name(self, data: str) -> None:
        if data in ("cifar10", "cifar100"):
            raise UserError("this table is of detectors: `data` takes a COCO directory")

    def scores(self, model: str) -> tuple[Score, ...]:
        return self.all_scores if has_masks(model) else (BOX_AP,)

    def why_another_score(self, model: str) -> str:
        return f"not every validation object of `data` has a mask: use {without_masks(model)}, a detector without masks"

    def describe_scores(self, names: str, images: str) -> str:
        return (
            f"{names} are COCO's average precision, the mean over overlaps (IoU) from 0.50 to 0.95, times 100, of the "
            f"last epoch's weights on {images}; no number includes the uncertainty from the choice of images."
        )

    def input_size(self, task: "TrainingTask") -> tuple[int, int]:
        from gcnet.tasks.detection.network import build_detector

        settings = cast(Any, task).settings
        network = replace(settings.network, weights=None)
        detector = replace(settings.detector, backbone_weights=None)
        with torch.device("meta"):  # only the transform is needed, no weights
            built = build_detector(replace(settings, network=network, detector=detector), len(task.classes))
        transform: Any = built.transform
        return transform.min_size[-1], transform.max_size

    def picture(self, task: "TrainingTask", index: int) -> tuple[Image.Image, str]:
        from gcnet.visualization.annotations import draw_annotations

        val = cast(Any, task).val
        names = dict(zip(val.category_ids, val.classes, strict=True))
        annotations = val.annotations(index)
        return draw_annotations(val.read(index), annotations), _listed(
            names[entry["category_id"]] for entry in annotations
        )


def _listed(names: Iterable[str]) -> str:
    counts = Counter(names)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(_LISTED)) or "nothing"
