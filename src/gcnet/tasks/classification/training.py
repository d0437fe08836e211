"""Training of classifiers: labeled images, cross-entropy with label smoothing and mixing, accuracy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gcnet.analysis.cost import count_flops
from gcnet.data.coco.open import is_coco
from gcnet.data.dataset import ClassificationDataset, Skipped
from gcnet.data.decode import check_text_file
from gcnet.data.images.check import shared_notes
from gcnet.data.images.class_balance import balanced_weights, class_counts, class_notes, describe_counts
from gcnet.data.images.open import DataSplits, open_data
from gcnet.data.loader import Batch, Loader, build_loader, choose_workers, collate
from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.data.seeding import mix_seed, preserved_random_state, seed_everything_for_sample
from gcnet.data.settings import DataSettings, PreprocessingSettings
from gcnet.devices import autocast_dtype, choose_memory_format
from gcnet.errors import Failure, UserError, explained_out_of_memory, printable
from gcnet.models.checkpoint_cache import local_weights
from gcnet.models.model_file import save_model
from gcnet.models.outputs import check_classifier, class_outputs
from gcnet.models.registry import list_detectors, split_name
from gcnet.tasks.classification.metrics import MOST_CLASSES_IN_MATRIX, ClassificationResult, evaluate_classifier
from gcnet.tasks.classification.preprocessing import own_preprocessing
from gcnet.training.checks import refuse_changed
from gcnet.training.checksums import describe_labeled
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings
from gcnet.training.task import Evaluation, TrainingTask, first_validation_sample, micro_batches, unless_stopped

_SHOWN = 24
_MIXING = 0x313  # keeps the seeds of mixing apart from those of samples


@dataclass(frozen=True)
class Prepared:
    """A batch on the device.

    Attributes:
        images: normalized images (N, 3, H, W).
        targets: class indices (N,), or after mixup or CutMix class probabilities (N, K).
        names: names of the images.
        skipped: images that could not be read.
    """

    images: Float[Tensor, "n channels height width"]
    targets: Int[Tensor, " n"] | Float[Tensor, "n classes"]
    names: list[str]
    skipped: list[Skipped]


class ClassificationTraining(TrainingTask[Batch, Prepared]):
    """Training of a classifier.

    Args:
        splits: training and validation images, preprocessing, classes.
        settings: settings of the run.
        processes: the processes and the rank of this one, which determine its share of every batch.
    """

    metric = "top1_fraction"

    def __init__(self, splits: DataSplits, settings: TrainSettings, processes: Processes) -> None:
        recipe = settings.recipe.with_batch_size_for(len(splits.train), processes.world)
        self._reduced = recipe is not settings.recipe
        self.splits, self.settings, self.processes = splits, replace(settings, recipe=recipe), processes
        counts = class_counts(splits.train)
        self._weights = torch.tensor(balanced_weights(counts)) if recipe.class_weights == "balanced" else None
        self._seed = settings.machine.seed
        self._mixers = _build_mixers(recipe.mixup, recipe.cutmix, len(splits.classes))
        share: Any = {"rank": processes.rank, "world": processes.world}
        self._order = EpochSampler(
            len(splits.train),
            batch_size=recipe.images_per_step,
            seed=self._seed,
            labels=splits.train.all_labels().tolist() if recipe.sampling == "balanced" else None,
            **share,
        )
        self._train = ClassificationDataset(splits.train, splits.train_transform(settings.augment), seed=self._seed)
        # A micro-batch: what fits in training fits in validation.
        validated = max(1, recipe.images_per_step // (processes.world * recipe.grad_accumulation))
        self._in_order = EvaluationSampler(len(splits.val), batch_size=validated, **share)
        self._validation = ClassificationDataset(splits.val, splits.eval_transform())
        self.steps_per_epoch = self._order.steps_per_epoch
        self.classes, self.evaluation_images = splits.classes, len(splits.val)

    def workers(self, device: torch.device) -> int:
        batches, in_memory = self.steps_per_epoch, self.splits.train.in_memory
        return choose_workers(self.settings.data.workers, device, batches=batches, in_memory=in_memory)

    def _loader(
        self,
        images: ClassificationDataset,
        order: EpochSampler | EvaluationSampler,
        device: torch.device,
        *,
        persistent: bool = False,
    ) -> Loader[Batch]:
        return build_loader(
            images,
            order,
            self.workers(device),
            pin_memory=device.type == "cuda",
            persistent=persistent,
            image_size=self.splits.preprocessing.image_size,
        )

    def _memory_format(self, device: torch.device) -> torch.memory_format:
        return choose_memory_format(self.settings.machine.channels_last, device)

    def batches(self, first_step: int, device: torch.device) -> Iterator[Batch]:
        self._order.start(first_step)
        loader = self._loader(self._train, self._order, device, persistent=True)
        while True:
            yield from loader

    def prepare(self, batch: Batch, step: int, device: torch.device) -> Prepared:
        images = batch.inputs(device, memory_format=self._memory_format(device))
        targets = batch.labels.to(device, non_blocking=True)
        if self._mixers and batch.names:
            with preserved_random_state():
                seed_everything_for_sample(mix_seed(_MIXING, self._seed, step, self.processes.rank))
                mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
                images, targets = mixer(images, targets)
        return Prepared(images, targets, batch.names, batch.skipped)

    def split(self, batch: Prepared, parts: int) -> list[Prepared]:
        pieces = [
            Prepared(batch.images[where], batch.targets[where], batch.names[where], [])
            for where in micro_batches(len(batch.names), parts)
        ]
        return pieces or [batch]

    def notes(self) -> list[str]:
        train, val, recipe = self.splits.train, self.splits.val, self.settings.recipe
        balanced = "balanced" in (recipe.class_weights, recipe.sampling)
        notes = [*self.splits.notes, *class_notes(train, val, balanced=balanced), *shared_notes(train, val)]
        if self._reduced:
            shares = f" in {self.processes.world} processes" if self.processes.world > 1 else ""
            notes.append(
                f"the default batch size is reduced to {recipe.batch_size} for {len(train):,} training images{shares}"
            )
        return [f"preprocessing: {self.splits.preprocessing}", *notes]

    @property
    def image_size(self) -> int:
        """Side of the square input images in pixels."""
        return self.splits.preprocessing.image_size

    def check(self, network: nn.Module) -> None:
        check_classifier(network, self.image_size, len(self.classes))

    def settled(self, data: DataSettings) -> DataSettings:
        """Write the preprocessing of `data` out, so that a resumed run does not depend on the weights.

        Returns:
            The settings with explicit values.
        """
        return replace(data, **asdict(PreprocessingSettings.like(self.splits.preprocessing)))

    def input_size(self, network: nn.Module) -> tuple[int, int]:  # noqa: ARG002
        size = self.splits.preprocessing.image_size
        return size, size

    def describe_data(self, size: tuple[int, int]) -> str:
        counts = describe_counts(class_counts(self.splits.train))
        return (
            f"{len(self.splits.train):,} training images ({counts}), "
            f"{self.evaluation_images:,} validation images, {len(self.classes)} classes, {size[0]} x {size[1]} pixels"
        )

    def files(self) -> Iterator[tuple[str, str]]:
        if self.splits.generated:
            return
        for part, source in (("train", self.splits.train), ("val", self.splits.val)):
            for index, label in enumerate(source.all_labels().tolist()):
                yield f"{part}/{source.name(index)}", f"{self.classes[label]} {source.file_size(index)}"

    def describe_augmentation(self) -> str:
        recipe = self.settings.recipe
        mixing = [f"{name} {value:g}" for name in ("mixup", "cutmix") if (value := getattr(recipe, name))]
        return ", ".join([self.splits.train_transform(self.settings.augment).describe(), *mixing])

    def sample(self, device: torch.device) -> Prepared:
        transform = self.splits.eval_transform()
        sample = first_validation_sample(ClassificationDataset(self.splits.val, transform))
        batch = collate([sample], transform.normalize)
        images = batch.inputs(device, memory_format=self._memory_format(device))
        return Prepared(images, batch.labels.to(device), batch.names, [])

    def forward(self, network: nn.Module, batch: Prepared) -> object:
        return network(batch.images)

    def flops(self, network: nn.Module) -> int:
        return count_flops(network, (1, 3, *self.input_size(network)))

    def losses(self, network: nn.Module, batch: Prepared) -> dict[str, Tensor]:
        """Compute the mean cross-entropy, plus weighted losses of auxiliary heads (GoogLeNet, Inception v3).

        Args:
            network: in training mode.
            batch: prepared, with at least one image.

        Returns:
            The loss in nats, shape (), by the name "loss".
        """
        outputs = class_outputs(network(batch.images))
        loss = self._mean_loss(outputs.logits, batch.targets)
        for weight, logits in outputs.auxiliary:
            loss = loss + weight * self._mean_loss(logits, batch.targets)
        return {"loss": loss}

    def _mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the images, shape (); class weights scale the loss of each image."""
        smoothing = self.settings.recipe.label_smoothing
        if self._weights is None:
            return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        losses = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
        weights = self._weights.to(losses.device)
        of_images = weights[targets] if targets.ndim == 1 else targets @ weights
        return (losses * of_images).mean()

    def evaluate(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Evaluation | None:
        def run(count: Callable[[int], None]) -> ClassificationResult:
            return evaluate_classifier(
                network,
                self._loader(self._validation, self._in_order, device),
                num_classes=len(self.splits.classes),
                device=device,
                autocast=autocast_dtype(self.settings.machine.precision, device),
                progress=count,
                processes=self.processes,
            )

        world = self.processes.world
        parts = self.settings.recipe.grad_accumulation
        across = (f", `grad_accumulation={parts}`" if parts > 1 else "") + (
            f" in {world} processes" if world > 1 else ""
        )
        with explained_out_of_memory(
            self._in_order.batch_size, f"validation with `batch_size={self._order.batch_size}`{across}"
        ):
            result = unless_stopped(run, stop, lambda done: progress(min(done * world, self.evaluation_images)))
        if result is None:
            return None
        metrics = {"val_loss": result.loss, "top1_fraction": result.top1, "top5_fraction": result.top5}
        skipped = {image.name: image.reason for image in result.skipped}
        # With at most five classes top-5 is always 100 %.
        shown = tuple(name for name in metrics if name != "top5_fraction" or len(self.classes) > 5)
        return Evaluation(metrics, result.images, skipped, result, shown)

    def save(self, network: nn.Module, path: Path) -> None:
        save_model(
            network, path, preprocessing=self.splits.preprocessing.to_dict(), class_names=list(self.splits.classes)
        )

    def draw_inputs(self, batch: Prepared, path: Path) -> None:
        from gcnet.visualization.images import contact_sheet

        preprocessing = self.splits.preprocessing
        mean, std = torch.tensor(preprocessing.mean).view(3, 1, 1), torch.tensor(preprocessing.std).view(3, 1, 1)
        images = batch.images[:_SHOWN].float().cpu() * std + mean  # (n, 3, H, W) in [0, 1]
        pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        titles = [_title(label, self.splits.classes) for label in batch.targets[:_SHOWN].cpu()]
        caption = self._caption(f"{len(titles)} training images after augmentation")
        contact_sheet(list(pixels), titles, path, caption=caption)

    def draw_curves(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        from gcnet.visualization.plots import plot_learning_curves

        scores = {"Top-1": {"top1_fraction": "top-1 (%)"}} | (
            {"Top-5": {"top5_fraction": "top-5 (%)"}} if len(self.classes) > 5 else {}
        )
        caption = self._caption(f"{self.evaluation_images:,} validation images")
        plot_learning_curves(rows, folder / "curves.png", scores=scores, caption=caption)

    def draw_evaluation(self, evaluation: Evaluation, folder: Path, *, title: str) -> None:
        from gcnet.visualization.plots import plot_confusion

        if len(self.splits.classes) > MOST_CLASSES_IN_MATRIX:
            return
        plot_confusion(
            evaluation.details.confusion,
            self.splits.classes,
            folder / "confusion.png",
            title=title,
            caption=self._caption(f"{self.evaluation_images:,} validation images"),
        )

    def _caption(self, *parts: str) -> str:
        from gcnet.visualization.style import figure_caption

        return figure_caption(self.settings.data.name, self.settings.network.title, *parts)


def open_classification(settings: TrainSettings, processes: Processes) -> ClassificationTraining:
    """Open the data of the settings for training a classifier.

    Generated images do not depend on the seed of the run, so that runs of different seeds have the same validation
    images.

    Args:
        settings: settings of the run.
        processes: processes that share the images.

    Returns:
        The training task.

    Raises:
        UserError: the data do not exist, do not fit the recipe, or differ between the processes.
    """
    names = [field.name for field in fields(settings.detector)]
    refuse_changed(settings.detector, names, "detectors", f"{settings.network.model} is a classifier")
    name, weights = split_name(settings.network.model)[1], settings.network.weights
    own = None
    if weights is not None:
        own = own_preprocessing(name, str(local_weights(weights, download=settings.data.download)), training=True)
    try:
        splits = open_data(settings.data, split_seed=settings.machine.seed, preprocessing=own)
    except Failure:
        raise
    except UserError as error:
        if not settings.data.is_built_in and is_coco(settings.data.data):
            if Path(settings.data.data).is_file():
                check_text_file(settings.data.data)
            raise _for_detectors(settings) from error
        raise
    processes.require_same(lambda: describe_labeled(splits.train, splits.val))
    return ClassificationTraining(splits, settings, processes)


def _for_detectors(settings: TrainSettings) -> UserError:
    model = settings.network.model
    if Path(model).is_file():
        return UserError(f"`model` takes the name of a network, found the file {model}: give its weights by `weights`")
    detector = f"mask_rcnn_{model}" if f"mask_rcnn_{model}" in list_detectors() else "mask_rcnn_gc_resnet50"
    return UserError(
        f"{printable(settings.data.data)} holds COCO annotations, for detectors such as `model={detector}`, and "
        f"{model} is not one"
    )


def build_classifier(settings: TrainSettings, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build the classifier of the settings, with its blocks.

    Args:
        settings: settings of the run.
        num_classes: number of classes.
        image_size: side of the images in pixels, for networks with a fixed image size.

    Returns:
        The network.
    """
    from gcnet.models.create import create_model

    network = settings.network
    return create_model(
        network.model,
        num_classes=num_classes,
        weights=network.weights,
        image_size=image_size,
        download=settings.data.download,
        **network.block_arguments(),
    )


def _build_mixers(mixup: float, cutmix: float, classes: int) -> list[Any]:
    if not mixup and not cutmix:
        return []
    from torchvision.transforms import v2

    mixers: list[Any] = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
    return mixers + ([v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else [])


def _title(label: Tensor, classes: Sequence[str]) -> str:
    if label.ndim == 0:
        return printable(classes[int(label)])
    shares, indices = label.topk(min(2, len(label)))
    pairs = zip(shares.tolist(), indices.tolist(), strict=True)
    return "\n".join(f"{printable(classes[index])} {share:.0%}" for share, index in pairs if share > 0.005)
