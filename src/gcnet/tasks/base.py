"""The interface of a task, such as classification, used by the commands."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from gcnet.errors import UserError
from gcnet.tasks.network_costs import NetworkCosts
from gcnet.tasks.scores import Demonstration, Score

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import nn

    from gcnet.data.images.image_input import ImageInput
    from gcnet.exporters.graph import ExportGraph
    from gcnet.exporters.settings import ExportSettings
    from gcnet.models.card import ModelCard
    from gcnet.tasks.loaded import LoadedModel
    from gcnet.tasks.predictor import Inference, Predictor
    from gcnet.tasks.results import (
        AttentionReader,
        DataReport,
        EvaluationResult,
        MeasuredImages,
        PredictionResult,
        TrainedModel,
    )
    from gcnet.tasks.settings import (
        AnalyzeSettings,
        CheckDataSettings,
        CommandSettings,
        EvaluateSettings,
        PredictSettings,
    )
    from gcnet.training.distributed import Processes
    from gcnet.training.settings import TrainSettings
    from gcnet.training.task import TrainingTask


class Task(ABC):
    """A task, such as classification; add one as a subclass in its own folder and a line in `registry.TASKS`.

    Attributes:
        name: name of the task.
        noun: name of its networks, such as "classifier".
        data_noun: name of its data, such as "labeled images".
        hub_task: name of the task on the Hugging Face Hub, or an empty string.
        own_settings: names of the settings that not all tasks have and this one does, by settings class.
        reads_results: whether `gcnet evaluate --results` is supported.
        can_simplify: whether `gcnet simplify` is supported.
        all_scores: all scores of its networks.
        demonstration: training for `gcnet compare` on generated scenes.
        costs: how the costs of its networks are measured.
        unused_settings: groups of `TrainSettings` without effect.
        names_note: note on network names for `gcnet models`, or an empty string.
        preset: presets of `gcnet reproduce` without and with pretrained weights.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    data_noun: ClassVar[str]
    hub_task: ClassVar[str] = ""
    own_settings: "ClassVar[Mapping[type[CommandSettings], tuple[str, ...]]]" = MappingProxyType({})
    reads_results: ClassVar[bool] = False
    can_simplify: ClassVar[bool] = False
    all_scores: ClassVar[tuple[Score, ...]]
    demonstration: ClassVar[Demonstration]
    costs: ClassVar[NetworkCosts]
    unused_settings: ClassVar[tuple[str, ...]] = ()
    names_note: ClassVar[str] = ""
    preset: ClassVar[tuple[str, str]] = ("scratch", "finetune")

    @abstractmethod
    def owns(self, model: str) -> bool:
        """Whether `model` is the name of a network of this task."""

    # Training

    @abstractmethod
    def with_defaults(self, settings: "TrainSettings") -> "TrainSettings":
        """Return `settings` with the values of the preset, except for the length, which depends on the data."""

    @abstractmethod
    def open_training(self, settings: "TrainSettings", processes: "Processes") -> "TrainingTask":
        """Return the training task, with its data open.

        Args:
            settings: settings of the run.
            processes: processes that share the images.

        Raises:
            UserError: the data do not exist or do not fit the settings.
        """

    @abstractmethod
    def build_network(
        self, settings: "TrainSettings", num_classes: int, *, image_size: int | None = None
    ) -> "nn.Module":
        """Return the network of the settings, with its blocks.

        Args:
            settings: settings of the run, with defaults filled in.
            num_classes: number of classes.
            image_size: side of the images in pixels, for networks with a fixed image size.

        Raises:
            UserError: the name is unknown, or the weights do not fit.
        """

    def describe_origin(self, training: "TrainSettings") -> str:
        """Return the initial weights of a `training` in words, for reports."""
        return f"from {training.network.weights or 'random weights'}"

    def start_from(self, weights: str | None) -> dict[str, Any]:
        """Return settings of a comparison that start from classifier `weights`, or from random weights if None."""
        return {"weights": weights}

    def check_data_name(self, data: str) -> None:  # noqa: B027
        """Check that the built-in data set `data` suits the task.

        Raises:
            UserError: it does not.
        """

    # Use of trained networks

    @abstractmethod
    def open_file(self, path: "Path", model: "nn.Module", card: "ModelCard") -> "TrainedModel":
        """Return the trained network of a model file.

        Args:
            path: model file.
            model: network of the file.
            card: its model card.

        Raises:
            UserError: the card does not suit the task.
        """

    @abstractmethod
    def open_by_name(self, name: str, weights: str, image_size: int | None, *, download: bool) -> "TrainedModel":
        """Return a network by name, with weights loaded.

        Args:
            name: network name.
            weights: a file, "pretrained", or a published version.
            image_size: side of the images in pixels, if it differs from that of the weights.
            download: download published weights that are not in the cache.

        Raises:
            UserError: the weights do not fit.
        """

    @abstractmethod
    def evaluate(
        self, loaded: "LoadedModel", settings: "EvaluateSettings", processes: "Processes"
    ) -> "EvaluationResult":
        """Return the evaluation of a trained network over the images of all processes.

        Args:
            loaded: network on its device.
            settings: settings of the evaluation.
            processes: processes that share the images.

        Raises:
            UserError: the data do not exist or do not fit the network.
        """

    def evaluate_results(self, settings: "EvaluateSettings", processes: "Processes") -> "EvaluationResult":
        """Return the evaluation of the predictions in the file `settings.results`, if `reads_results`.

        Args:
            settings: settings of the evaluation.
            processes: processes of the run; only the first logs.

        Raises:
            UserError: the file or the data do not exist, or do not match.
        """
        raise NotImplementedError

    @abstractmethod
    def predictor(self, loaded: "LoadedModel", inference: "Inference") -> "Predictor":
        """Return the predictor of a trained network.

        Args:
            loaded: network on its device.
            inference: precision and compilation.

        Raises:
            UserError: the network has no preprocessing, or does not run.
        """

    def configured_predictor(
        self,
        loaded: "LoadedModel",
        settings: "PredictSettings",  # noqa: ARG002
    ) -> "tuple[Predictor, dict[str, Any]]":
        """Return the predictor for `gcnet predict`, and the options of its calls.

        Args:
            loaded: network on its device.
            settings: settings of the prediction.

        Raises:
            UserError: the settings do not fit the network.
        """
        from gcnet.tasks.predictor import Inference

        return self.predictor(loaded, Inference()), {}

    def predict(
        self,
        loaded: "LoadedModel",
        images: "Sequence[ImageInput]",
        settings: "PredictSettings",  # noqa: ARG002
        processes: "Processes",  # noqa: ARG002
    ) -> "PredictionResult":
        """Return predictions for the image files of all processes, and write the figures of `settings.output` once.

        Args:
            loaded: network on its device.
            images: image files.
            settings: settings of the prediction.
            processes: processes that share the images.

        Raises:
            UserError: the settings are invalid, or an output of the network is not finite.
        """
        from gcnet.tasks.predictor import Inference

        return self.predictor(loaded, Inference())(images)

    def export_graph(self, loaded: "LoadedModel", settings: "ExportSettings") -> "ExportGraph":  # noqa: ARG002
        """Return the network as a static graph for `gcnet export`.

        Args:
            loaded: network on the CPU.
            settings: settings of the export.

        Raises:
            UserError: the task has no export, or the settings do not fit the network.
        """
        raise UserError(f"gcnet export does not support a {self.noun}, such as {loaded.origin}")

    @abstractmethod
    def recognizes_data(self, settings: "CheckDataSettings") -> bool:
        """Whether the data set of `settings` has a layout of this task."""

    @abstractmethod
    def check_data(self, settings: "CheckDataSettings") -> "DataReport":
        """Return a report on the data set of `settings`.

        Raises:
            UserError: the data do not exist or have another layout.
        """

    def attention_reader(self, loaded: "LoadedModel", settings: "AnalyzeSettings") -> "AttentionReader":  # noqa: ARG002
        """Return the function that computes attention maps of image files.

        Args:
            loaded: network on its device.
            settings: settings of the analysis.

        Raises:
            UserError: the task does not support attention maps, or the network has none.
        """
        raise UserError(f"gcnet analyze does not support a {self.noun}, such as {loaded.origin}")

    def measured_images(
        self,
        loaded: "LoadedModel",
        settings: "AnalyzeSettings",  # noqa: ARG002
        processes: "Processes",  # noqa: ARG002
    ) -> "MeasuredImages":
        """Return the images of `settings.data` for attention statistics.

        Args:
            loaded: network on its device.
            settings: settings of the analysis.
            processes: processes that share the images.

        Raises:
            UserError: the data do not exist, or the task does not support statistics.
        """
        raise UserError(f"gcnet analyze does not measure statistics of a {self.noun}, such as {loaded.origin}")

    # Scores and pictures of a comparison

    def scores(self, model: str) -> tuple[Score, ...]:  # noqa: ARG002
        """Return the scores of the network named `model`; the first selects the best weights."""
        return self.all_scores

    def why_another_score(self, model: str) -> str:
        """Return why a training of `model` may select the best weights by another score than the first.

        Raises:
            NotImplementedError: the task has one score.
        """
        raise NotImplementedError(f"the trainings of {model} have one score")

    def describe_scores(self, names: str, images: str) -> str:
        """Return a note on scores that are not fractions of images, for reports.

        Args:
            names: names of the scores, as the beginning of a sentence.
            images: number of images, in words.
        """
        return f"{names} are of the last epoch's weights on {images}."

    @abstractmethod
    def input_size(self, task: "TrainingTask") -> tuple[int, int]:
        """Return the input size of a training `task` in pixels: height and width, or short and long side."""

    @abstractmethod
    def picture(self, task: "TrainingTask", index: int) -> "tuple[Image.Image, str]":
        """Return a validation image with its labels drawn, and its caption.

        Args:
            task: training task.
            index: index of the image.

        Raises:
            ImageError: the image cannot be read.
        """
