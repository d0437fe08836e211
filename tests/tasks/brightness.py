"""A task of its own: image regression, the mean brightness of generated gray images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from gcnet.analysis.cost import count_flops
from gcnet.data.dataset import Skipped
from gcnet.data.images.image_input import ImageInput
from gcnet.data.images.inputs import Images
from gcnet.data.settings import DataSettings
from gcnet.models.backbones.cifar_resnet import CifarResNet
from gcnet.models.card import ModelCard
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.models.outputs import evaluating
from gcnet.tasks.base import Task
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.network_costs import NetworkCosts
from gcnet.tasks.predictor import Inference, Predictor
from gcnet.tasks.results import DataReport, EvaluationResult, PredictionResult, TrainedModel
from gcnet.tasks.scores import SHORT_RECIPE, Demonstration, Score
from gcnet.tasks.settings import CheckDataSettings, EvaluateSettings
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings
from gcnet.training.task import Evaluation, micro_batches, unless_stopped

MODEL = "brightness_resnet20"
SIDE, TRAIN, VAL = 16, 32, 8
R2 = Score("r2_fraction", "R2", "explained variance", " %", "points", is_share=False)


def build_regressor(num_classes: int) -> nn.Module:
    return CifarResNet(20, num_classes)


def gray_images(first: int, count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, SIDE, SIDE) of noise around a gray level, and the levels (N, 1)."""
    generator = torch.Generator().manual_seed(first)
    levels = torch.rand(count, 1, generator=generator)
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return levels[:, :, None, None] + 0.05 * noise, levels


@dataclass(frozen=True)
class GrayBatch:
    images: Tensor
    levels: Tensor
    names: list[str]
    skipped: list[Skipped]


@dataclass(frozen=True)
class TrainedRegressor:
    model: nn.Module


@dataclass(frozen=True)
class Brightness(PredictionResult):
    images: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return "\n".join(f"{path}  {level:.3f}" for path, level in self.images)

    def to_dict(self) -> dict[str, Any]:
        return {"images": [{"path": path, "brightness": level} for path, level in self.images]}

    def rows(self) -> Iterator[Sequence[object]]:
        yield "image", "brightness"
        yield from self.images


class BrightnessPredictor(Predictor):
    default_batch_size = 4
    names = ("brightness",)

    def __call__(self, images: Images) -> Brightness:
        return cast(Brightness, self._call(images, None))

    def _predict(
        self,
        images: Sequence[tuple[ImageInput, Image.Image]],
        options: None,  # noqa: ARG002
    ) -> list[tuple[str, float]]:
        pixels = [torch.tensor(list(image.resize((SIDE, SIDE)).tobytes())) for _, image in images]
        batch = torch.stack(pixels).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2) / 255
        return [(item.name, float(level)) for (item, _), level in zip(images, self.model(batch), strict=True)]

    def _result(self, predictions: tuple[Any, ...], skipped: tuple[Skipped, ...]) -> Brightness:
        return Brightness(predictions, skipped)


@dataclass(frozen=True)
class RegressionResult(EvaluationResult):
    r2: float

    @property
    def images(self) -> int:
        return VAL

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return ()

    @property
    def scores(self) -> dict[str, float | None]:
        return {"r2_fraction": self.r2}

    def __str__(self) -> str:
        return f"R2  {100 * self.r2:.2f} %"

    def to_dict(self) -> dict[str, Any]:
        return dict(self.scores)

    def write(self, folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(f'{{"r2_fraction": {self.r2}}}')
        return ["results.json"]


def explained_variance(model: nn.Module, device: torch.device | str = "cpu") -> float:
    images, levels = gray_images(10_000, VAL)
    with evaluating(model), torch.no_grad():
        predicted = model(images.to(device)).cpu()
    return float(1 - (predicted - levels).square().sum() / (levels - levels.mean()).square().sum())


class BrightnessTraining:
    """Its training: a batch depends on the step alone."""

    metric = "r2_fraction"
    classes: tuple[str, ...] = ("brightness",)
    evaluation_images = VAL
    image_size = SIDE

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = replace(settings, recipe=settings.recipe.with_batch_size_for(TRAIN, 1))
        self._batch = self.settings.recipe.images_per_step
        self.steps_per_epoch = TRAIN // self._batch

    def check(self, network: nn.Module) -> None:
        pass

    def settled(self, data: DataSettings) -> DataSettings:
        return data

    def notes(self) -> list[str]:
        return []

    def input_size(self, network: nn.Module) -> tuple[int, int]:  # noqa: ARG002
        return SIDE, SIDE

    def describe_data(self, size: tuple[int, int]) -> str:
        return f"{TRAIN} gray images, {size[0]} x {size[1]} pixels"

    def files(self) -> Iterator[tuple[str, str]]:
        yield from ()

    def describe_augmentation(self) -> str:
        return "none"

    def workers(self, device: torch.device) -> int:  # noqa: ARG002
        return 0

    def batches(self, first_step: int, device: torch.device) -> Iterator[GrayBatch]:  # noqa: ARG002
        step = first_step
        while True:
            names = [f"{step % self.steps_per_epoch}-{number}" for number in range(self._batch)]
            yield GrayBatch(*gray_images(step % self.steps_per_epoch, self._batch), names, [])
            step += 1

    def prepare(self, batch: GrayBatch, step: int, device: torch.device) -> GrayBatch:  # noqa: ARG002
        return replace(batch, images=batch.images.to(device), levels=batch.levels.to(device))

    def split(self, batch: GrayBatch, parts: int) -> list[GrayBatch]:
        return [
            GrayBatch(batch.images[part], batch.levels[part], batch.names[part], [])
            for part in micro_batches(len(batch.names), parts)
        ]

    def losses(self, network: nn.Module, batch: GrayBatch) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(network(batch.images).float(), batch.levels)}

    def sample(self, device: torch.device) -> GrayBatch:
        return self.prepare(GrayBatch(*gray_images(0, 1), ["0"], []), 0, device)

    def forward(self, network: nn.Module, batch: GrayBatch) -> object:
        return network(batch.images)

    def flops(self, network: nn.Module) -> int:
        return count_flops(network, (1, 3, SIDE, SIDE))

    def evaluate(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Evaluation | None:
        r2 = unless_stopped(lambda _: explained_variance(network, device), stop, progress)
        return None if r2 is None else Evaluation({"r2_fraction": r2}, VAL)

    def save(self, network: nn.Module, path: Path) -> None:
        save_model(network, path, class_names=self.classes)

    def draw_inputs(self, batch: GrayBatch, path: Path) -> None:
        pass

    def draw_curves(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        pass

    def draw_evaluation(self, evaluation: Evaluation, folder: Path, *, title: str) -> None:
        pass


class RegressorCosts(NetworkCosts):
    step_images, timed_images = 8, 8

    def default_image_size(self, name: str, model: nn.Module) -> tuple[int, int]:  # noqa: ARG002
        return SIDE, SIDE


class BrightnessRegression(Task):
    name, noun, data_noun = "brightness", "regressor", "gray images"
    all_scores = (R2,)
    demonstration = Demonstration({**SHORT_RECIPE, "steps": 4, "batch_size": 8, "lr": 0.01}, train=TRAIN, val=VAL)
    costs = RegressorCosts()
    unused_settings = ("detector",)

    def owns(self, model: str) -> bool:
        return model.endswith(MODEL)

    def with_defaults(self, settings: TrainSettings) -> TrainSettings:
        return replace(settings, recipe=settings.recipe.with_defaults())

    def open_training(self, settings: TrainSettings, processes: Processes) -> BrightnessTraining:  # noqa: ARG002
        return BrightnessTraining(settings)

    def build_network(
        self,
        settings: TrainSettings,
        num_classes: int,
        *,
        image_size: int | None = None,  # noqa: ARG002
    ) -> nn.Module:
        network = settings.network
        return create_model(
            network.model, num_classes=num_classes, weights=network.weights, **network.block_arguments()
        )

    def open_file(self, path: Path, model: nn.Module, card: ModelCard) -> TrainedModel:  # noqa: ARG002
        return TrainedRegressor(model)

    def open_by_name(self, name: str, weights: str, image_size: int | None, *, download: bool) -> TrainedModel:  # noqa: ARG002
        return TrainedRegressor(create_model(name, num_classes=1, weights=weights).eval())

    def evaluate(
        self,
        loaded: LoadedModel,
        settings: EvaluateSettings,  # noqa: ARG002
        processes: Processes,  # noqa: ARG002
    ) -> EvaluationResult:
        return RegressionResult(explained_variance(loaded.trained.model))

    def predictor(self, loaded: LoadedModel, inference: Inference) -> Predictor:
        return BrightnessPredictor(loaded.trained.model, loaded.origin, inference)

    def recognizes_data(self, settings: CheckDataSettings) -> bool:  # noqa: ARG002
        return False

    def check_data(self, settings: CheckDataSettings) -> DataReport:
        raise NotImplementedError

    def input_size(self, task: Any) -> tuple[int, int]:  # noqa: ARG002
        return SIDE, SIDE

    def picture(self, task: Any, index: int) -> tuple[Image.Image, str]:  # noqa: ARG002
        images, levels = gray_images(index, 1)
        pixels = (images[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(pixels), f"{float(levels):.2f}"
