"""The interface of a task, such as classification, towards the commands."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from gcnet.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import nn

    from gcnet.models.card import ModelCard
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


@dataclass(frozen=True)
class Score:
    """A number from 0 to 1 that an evaluation gives, printed times 100.

    Attributes:
        column: its name in the rows of a run and in results.json.
        name: in sentences and on axes.
        label: in titles.
        unit: behind a value, with the space before it; empty for a number without unit.
        points: what a hundredth of difference is called.
        is_share: whether it is the share of the validation images that are right, so that their number says how much
            chance is in it; average precision is not.
    """

    column: str
    name: str
    label: str
    unit: str
    points: str
    is_share: bool

    @property
    def heading(self) -> str:
        """Of a column of values, or of an axis."""
        return f"{self.name} ({self.unit.strip()})" if self.unit else self.name

    @property
    def title(self) -> str:
        """`label` as the beginning of a sentence."""
        return self.label[0].upper() + self.label[1:]


@dataclass(frozen=True)
class Demonstration:
    """A short training on generated scenes: choices of the recipe, and how many scenes to generate."""

    recipe: Mapping[str, Any]
    train: int
    val: int


# Found by trying on the generated scenes: long enough for every block, short enough for minutes on two cores.
SHORT_RECIPE: Mapping[str, Any] = MappingProxyType(
    {"optimizer": "adamw", "weight_decay": 0.01, "decay_all": False, "clip_grad_norm": 5.0}
)
"""Choices of the recipe of every demonstration."""


class Task(ABC):
    """A task, such as classification; a new one is a subclass in a folder of its own and a line in `registry.TASKS`.

    Attributes:
        name: of the task.
        noun: for a network of the task, such as "classifier".
        data_noun: for its data, such as "labeled images".
        own_settings: settings that only some tasks have, this one among them, by the settings of the command.
        reads_results: whether `gcnet evaluate --results` reads its predictions.
        can_simplify: whether `gcnet simplify` takes its networks.
        all_scores: that its networks may have.
        demonstration: the training of `gcnet compare` on generated scenes.
        step_images: images of a training step whose costs are counted.
        timed_images: images of a batch whose time `gcnet compare` measures, at most.
        timed_input: what such a batch holds, in words.
        counted_image: of which size the image is whose FLOPs are counted, in words.
        has_fixed_size: whether some of its networks are built for images of one size (ViT, Swin, ...).
        unused_settings: groups of `TrainSettings` without effect.
        names_note: how its networks are named, for `gcnet models`; empty where the list shows it.
        flops_note: what the FLOPs of its networks are of, for `gcnet models`; empty where there is nothing to add.
        preset: of `gcnet reproduce`, without and with trained weights to start from.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    data_noun: ClassVar[str]
    own_settings: "ClassVar[Mapping[type[CommandSettings], tuple[str, ...]]]" = MappingProxyType({})
    reads_results: ClassVar[bool] = False
    can_simplify: ClassVar[bool] = False
    all_scores: ClassVar[tuple[Score, ...]]
    demonstration: ClassVar[Demonstration]
    step_images: ClassVar[int]
    timed_images: ClassVar[int]
    timed_input: ClassVar[str] = "images"
    counted_image: ClassVar[str] = "this size"
    has_fixed_size: ClassVar[bool] = False
    unused_settings: ClassVar[tuple[str, ...]] = ()
    names_note: ClassVar[str] = ""
    flops_note: ClassVar[str] = ""
    preset: ClassVar[tuple[str, str]] = ("scratch", "finetune")

    @abstractmethod
    def owns(self, model: str) -> bool:
        """Whether a network's name is one of this task."""

    # Training

    @abstractmethod
    def with_defaults(self, settings: "TrainSettings") -> "TrainSettings":
        """The settings with nothing left to the preset but the length, which depends on the data."""

    @abstractmethod
    def open_training(self, settings: "TrainSettings", processes: "Processes") -> "TrainingTask":
        """The images, and what training does with them.

        Raises:
            UserError: the data are not there, or do not suit the settings.
        """

    @abstractmethod
    def build_network(
        self, settings: "TrainSettings", num_classes: int, *, image_size: int | None = None
    ) -> "nn.Module":
        """The network that filled settings describe, built for images of `image_size` where it is made for one size.

        Raises:
            UserError: an unknown name, or weights that do not fit.
        """

    def describe_origin(self, training: "TrainSettings") -> str:
        """What the weights start from, for a report."""
        return f"from {training.network.weights or 'random weights'}"

    def start_from(self, weights: str | None) -> dict[str, Any]:
        """The settings of a comparison whose networks start from published weights of a classifier, or from none."""
        return {"weights": weights}

    def check_data_name(self, data: str) -> None:  # noqa: B027
        """Check that generated or downloaded data of this name are for the task.

        Raises:
            UserError: they are not.
        """

    # Use of trained networks

    @abstractmethod
    def open_file(self, path: "Path", model: "nn.Module", card: "ModelCard") -> "TrainedModel":
        """The network of a model file with what the task needs of its card.

        Raises:
            UserError: the card does not suit the task.
        """

    @abstractmethod
    def open_by_name(self, name: str, weights: str, image_size: int | None) -> "TrainedModel":
        """A network by name with weights: a file, "pretrained", or the name of published weights.

        Raises:
            UserError: the weights do not fit.
        """

    @abstractmethod
    def evaluate(
        self, loaded: "LoadedModel", settings: "EvaluateSettings", processes: "Processes"
    ) -> "EvaluationResult":
        """Evaluate a trained network, whose model is on its device, in all processes together.

        Raises:
            UserError: the data do not exist or do not fit the network.
        """

    def evaluate_results(self, settings: "EvaluateSettings", processes: "Processes") -> "EvaluationResult":
        """Evaluate the predictions in the file `settings.results`, where `reads_results`.

        Raises:
            UserError: the file or the data do not exist, or do not fit each other.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(
        self, loaded: "LoadedModel", paths: "Sequence[Path]", settings: "PredictSettings"
    ) -> "PredictionResult":
        """Predict for image files, and write the pictures of `settings.output`.

        Raises:
            UserError: settings that cannot work, or outputs that are not finite.
        """

    @abstractmethod
    def recognizes_data(self, settings: "CheckDataSettings") -> bool:
        """Whether a data set has the layout of the task's data."""

    @abstractmethod
    def check_data(self, settings: "CheckDataSettings") -> "DataReport":
        """Find the issues of a data set.

        Raises:
            UserError: the data do not exist, or are of another layout.
        """

    def attention_reader(self, loaded: "LoadedModel", settings: "AnalyzeSettings") -> "AttentionReader":  # noqa: ARG002
        """How attention maps of image files are computed.

        Raises:
            UserError: the network or the task has none.
        """
        raise UserError(f"gcnet analyze reads no attention of a {self.noun}, and {loaded.origin} is one")

    def measured_images(self, loaded: "LoadedModel", settings: "AnalyzeSettings") -> "MeasuredImages":  # noqa: ARG002
        """The images of `settings.data` for statistics of attention.

        Raises:
            UserError: the data do not exist, or the task has no such statistics.
        """
        raise UserError(f"gcnet analyze measures no attention of a {self.noun}, and {loaded.origin} is one")

    # Scores and pictures of a comparison

    def scores(self, model: str) -> tuple[Score, ...]:  # noqa: ARG002
        """The scores of a network by its name: the first decides, the others are shown beside it."""
        return self.all_scores

    def why_another_score(self, model: str) -> str:
        """Why a training could choose its best weights by another score than the first of `scores`."""
        raise NotImplementedError(f"the trainings of {model} have one score")

    def describe_scores(self, names: str, images: str) -> str:
        """What scores are that are no shares of images, for the notes of a report.

        Args:
            names: of the scores, as the beginning of a sentence.
            images: how many, in words.
        """
        return f"{names} are of the last epoch's weights on {images}."

    @abstractmethod
    def input_size(self, task: "TrainingTask") -> tuple[int, int]:
        """Height and width in pixels of what the network sees, or the short and the long side of images."""

    @abstractmethod
    def picture(self, task: "TrainingTask", index: int) -> "tuple[Image.Image, str]":
        """A validation image with its caption.

        Raises:
            ImageError: it cannot be read.
        """

    # Costs

    @abstractmethod
    def default_image_size(self, name: str, model: "nn.Module") -> tuple[int, int]:
        """Height and width in pixels of the image that a network's FLOPs are counted for, unless given."""

    @abstractmethod
    def count_flops(self, model: "nn.Module", size: tuple[int, int]) -> int:
        """FLOPs (multiply-add = 2) of one image of this height and width."""

    @abstractmethod
    def stages(self, model: "nn.Module") -> dict[str, str]:
        """The stage that each part of a network belongs to, by the path of the part, in the order of the network."""

    @abstractmethod
    def run_on_meta(self, skeleton: Any, size: tuple[int, int], images: int) -> None:
        """A forward pass on the meta device whose work does not depend on what is found."""

    @abstractmethod
    def body(self, model: "nn.Module", size: tuple[int, int]) -> "tuple[nn.Module, str, tuple[int, int]]":
        """What holds the blocks, its path with a dot behind it or "", and the size of the images that it is given."""

    def measured(
        self,
        model: "nn.Module",
        num_classes: int,  # noqa: ARG002
        size: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> "nn.Module":
        """A network for measuring time and memory: images (N, 3, H, W) in, work that does not depend on weights.

        Args:
            model: the network; it may be changed.
            num_classes: its classes.
            size: height and width of images that must not be resized.
        """
        return model

    def cost_notes(self) -> tuple[str, ...]:
        """What a reader must know of the numbers that `gcnet cost` prints."""
        return ()


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with its task.

    Attributes:
        task: the task.
        trained: the network, in eval mode.
        origin: the model file, run folder or name, as given.
        weights: the file or the published weights that were loaded.
    """

    task: Task
    trained: "TrainedModel"
    origin: str
    weights: str

    def with_model(self, model: "nn.Module") -> "LoadedModel":
        """The same with another network in its place, such as one with other blocks."""
        return replace(self, trained=replace(cast(Any, self.trained), model=model))

    def describe(self) -> list[str]:
        """Network with blocks and classes, weights, device, precision and threads: a line each."""
        import torch

        from gcnet.insertion import inserted
        from gcnet.models.card import card_of
        from gcnet.models.weights import loaded_weights

        model = self.trained.model
        card, blocks = card_of(model), inserted(model)
        names = ", ".join(dict.fromkeys(insertion.block for insertion in blocks))
        described = [f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters"]
        if blocks:
            described.append(f"{sum(insertion.parameters for insertion in blocks):,} of them in inserted blocks")
        if card.num_classes:
            described.append(f"{card.num_classes:,} classes")
        first, threads = next(model.parameters()), torch.get_num_threads()
        precision = str(first.dtype).removeprefix("torch.")
        return [
            f"model: {card.architecture or type(model).__name__}{f' with {names}' if blocks else ''}: "
            f"{', '.join(described)}",
            f"weights: {loaded_weights(model) or self.weights}",
            f"device: {first.device}, {precision}, {threads} thread{'s' * (threads != 1)}",
        ]
