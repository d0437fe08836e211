"""The classification task."""

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from PIL import Image
from torch import nn

from gcnet.models.registry import small_input, split_name
from gcnet.tasks.base import Task
from gcnet.tasks.network_costs import NetworkCosts
from gcnet.tasks.scores import SHORT_RECIPE, Demonstration, Score
from gcnet.tasks.settings import AnalyzeSettings, CheckDataSettings, EvaluateSettings, PredictSettings
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gcnet.data.images.image_input import ImageInput
    from gcnet.exporters.graph import ExportGraph
    from gcnet.exporters.settings import ExportSettings
    from gcnet.models.card import ModelCard
    from gcnet.tasks.classification.evaluate import ClassifierEvaluation
    from gcnet.tasks.classification.predictions import Predictions
    from gcnet.tasks.classification.trained import TrainedClassifier
    from gcnet.tasks.classification.training import ClassificationTraining
    from gcnet.tasks.loaded import LoadedModel
    from gcnet.tasks.predictor import Inference, Predictor
    from gcnet.tasks.results import AttentionReader, DataReport, MeasuredImages
    from gcnet.training.task import TrainingTask

TOP1 = Score("top1_fraction", "top-1", "top-1 accuracy", " %", "points", is_share=True)
_SIDE = 224


class ClassifierCosts(NetworkCosts):
    """Costs of classifiers."""

    step_images, timed_images = 32, 16
    has_fixed_size = True

    def default_image_size(self, name: str, model: nn.Module) -> tuple[int, int]:  # noqa: ARG002
        side = small_input(split_name(name)[1]) or _SIDE
        return side, side


class Classification(Task):
    """Image classification, the task of all names and data sets without another task."""

    name = "classification"
    noun = "classifier"
    data_noun = "labeled images"
    hub_task = "image-classification"
    own_settings = MappingProxyType(
        {
            EvaluateSettings: ("download_dir", "preprocessing"),
            PredictSettings: ("topk", "preprocessing"),
            AnalyzeSettings: ("download_dir", "batch_size", "preprocessing"),
        }
    )
    can_simplify = True
    all_scores = (TOP1,)
    demonstration = Demonstration(
        {**SHORT_RECIPE, "steps": 600, "batch_size": 64, "lr": 0.01, "warmup_epochs": 0.3}, train=6_400, val=1_200
    )
    costs = ClassifierCosts()
    unused_settings = ("detector",)

    def owns(self, model: str) -> bool:  # noqa: ARG002
        return True

    def with_defaults(self, settings: TrainSettings) -> TrainSettings:
        return replace(settings, recipe=settings.recipe.with_defaults())

    def open_training(self, settings: TrainSettings, processes: Processes) -> "ClassificationTraining":
        from gcnet.tasks.classification.training import open_classification

        return open_classification(settings, processes)

    def build_network(self, settings: TrainSettings, num_classes: int, *, image_size: int | None = None) -> nn.Module:
        from gcnet.tasks.classification.training import build_classifier

        return build_classifier(settings, num_classes, image_size=image_size)

    def open_file(self, path: "Path", model: nn.Module, card: "ModelCard") -> "TrainedClassifier":
        from gcnet.tasks.classification.trained import classifier_of_file

        return classifier_of_file(path, model, card)

    def open_by_name(self, name: str, weights: str, image_size: int | None, *, download: bool) -> "TrainedClassifier":
        from gcnet.tasks.classification.trained import classifier_by_name

        return classifier_by_name(name, weights, image_size, download=download)

    def evaluate(
        self, loaded: "LoadedModel", settings: EvaluateSettings, processes: Processes
    ) -> "ClassifierEvaluation":
        from gcnet.tasks.classification.evaluate import evaluate

        return evaluate(loaded, settings, processes)

    def configured_predictor(
        self, loaded: "LoadedModel", settings: PredictSettings
    ) -> "tuple[Predictor, dict[str, Any]]":
        from gcnet.tasks.classification.predict import configured_predictor

        return configured_predictor(loaded, settings)

    def predict(
        self, loaded: "LoadedModel", images: "Sequence[ImageInput]", settings: PredictSettings, processes: "Processes"
    ) -> "Predictions":
        from gcnet.tasks.classification.predict import predict

        return predict(loaded, images, settings, processes)

    def predictor(self, loaded: "LoadedModel", inference: "Inference") -> "Predictor":
        from gcnet.data.settings import PreprocessingSettings
        from gcnet.tasks.classification.predict import open_predictor

        return open_predictor(loaded, inference, PreprocessingSettings(inference.image_size))

    def export_graph(self, loaded: "LoadedModel", settings: "ExportSettings") -> "ExportGraph":
        from gcnet.tasks.classification.export import export_graph

        return export_graph(loaded, settings)

    def recognizes_data(self, settings: CheckDataSettings) -> bool:  # noqa: ARG002
        return True

    def check_data(self, settings: CheckDataSettings) -> "DataReport":
        from gcnet.tasks.classification.check_data import check_labeled_images

        return check_labeled_images(settings)

    def attention_reader(self, loaded: "LoadedModel", settings: AnalyzeSettings) -> "AttentionReader":
        from gcnet.tasks.classification.attention import attention_reader

        return attention_reader(loaded, settings)

    def measured_images(
        self, loaded: "LoadedModel", settings: AnalyzeSettings, processes: "Processes"
    ) -> "MeasuredImages":
        from gcnet.tasks.classification.attention import LabeledImages

        return LabeledImages(loaded, settings, processes)

    def input_size(self, task: "TrainingTask") -> tuple[int, int]:
        size = cast(Any, task).splits.preprocessing.image_size
        return size, size

    def picture(self, task: "TrainingTask", index: int) -> tuple[Image.Image, str]:
        source = cast(Any, task).splits.val
        return source.read(index), source.classes[source.label(index)]
