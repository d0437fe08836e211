"""`gcnet.simplify`: replaces query-independent non-local blocks of a trained network by simpler ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from gcnet.analysis.cost import count_parameters
from gcnet.analysis.query_independence import INDEPENDENT, Layer, dependence, measure_layers
from gcnet.analysis.simplification import find_non_local, mean_inputs, replace_blocks, why_kept
from gcnet.arguments import plain_arguments
from gcnet.data.dataset import Skipped
from gcnet.devices import choose_device
from gcnet.errors import UserError
from gcnet.models.model_file import save_model
from gcnet.models.outputs import evaluating
from gcnet.tasks.results import EvaluationResult
from gcnet.tasks.trained import TaskModel, open_trained
from gcnet.training.distributed import ALONE, Processes
from gcnet.workflows.settings import SimplifySettings


@dataclass(frozen=True)
class Simplified:
    """Result of `gcnet.simplify`; `str()` gives the distances of the blocks, and metrics before and after.

    Attributes:
        layers: measured distances of the non-local blocks.
        unchanged: reason by name of each block that is not replaced.
        block: that replaces the others.
        images: number of images measured.
        skipped: images that could not be read.
        model: the new network in eval mode; None if no block was replaced.
        before: evaluation of the old network; None if no block was replaced.
        after: evaluation of the new network; None if no block was replaced.
        costs: parameters and FLOPs of an image, before and after.
    """

    layers: tuple[Layer, ...]
    unchanged: Mapping[str, str]
    block: str
    images: int
    skipped: tuple[Skipped, ...]
    model: nn.Module | None = field(default=None, repr=False)
    before: EvaluationResult | None = None
    after: EvaluationResult | None = None
    costs: tuple[tuple[int, int], ...] = ()

    @property
    def replaced(self) -> list[str]:
        """Names of the blocks that are replaced."""
        return [layer.name for layer in self.layers if layer.name not in self.unchanged]

    def __str__(self) -> str:
        """What happens to each block and why, and metrics before and after."""
        return "\n".join([*self._blocks(), *self._comparison()])

    def _blocks(self) -> list[str]:
        if not self.layers:
            return []
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [
            "distance: average cosine distance between positions of maps and of outputs, the higher upper bound of",
            f"their 95 % intervals over {self.layers[0].images:,} images",
            "",
            f"{'layer':<{width}}  distance",
        ]
        for layer in self.layers:
            reason = self.unchanged.get(layer.name)
            fate = f"replaced by {self.block}" if reason is None else f"kept: {reason}"
            lines.append(f"{layer.name:<{width}}  {dependence(layer):<8.4f}  {fate}")
        return lines

    def _comparison(self) -> list[str]:
        if self.before is None or self.after is None:
            return []
        columns = self.before.summary()
        heads = "".join(f"  {title:<{_width(column)}}" for title, column in columns.items())
        lines = ["", f"{'':<6}{heads}  {'parameters':>12}  {'MFLOPs/image':>12}"]
        for title, result, (parameters, flops) in zip(
            ("before", "after"), (self.before, self.after), self.costs, strict=True
        ):
            cells = "".join(f"  {cell:<{_width(columns[name])}}" for name, cell in result.summary().items())
            lines.append(f"{title:<6}{cells}  {parameters:>12,}  {flops / 1e6:>12,.4g}")
        lines.append(f"{self.after.images:,} images evaluated, {len(self.after.skipped):,} skipped; 95 % intervals")
        if self.block == "gc":
            lines.append(
                "The gc blocks keep the attention; their bottlenecks are new, with zero output: continue training."
            )
        return lines


def _width(cell: str) -> int:
    return max(len(cell) + 2, 7)


def run_simplification(settings: SimplifySettings) -> Simplified:
    """`simplify` of settings, without writing `output`.

    Args:
        settings: of the simplification.

    Returns:
        The result with the new network, if a block was replaced.

    Raises:
        UserError: as `simplify`.
    """
    device = choose_device(settings.device)
    loaded = open_trained(
        settings.model, settings.weights, image_size=settings.preprocessing.image_size, download=settings.download
    )
    if not loaded.task.can_simplify:
        raise UserError(f"gcnet simplify does not support a {loaded.task.noun}, such as {settings.model}")
    model = loaded.trained.model.to(device)
    if not find_non_local(model):
        raise UserError(f"{settings.model} has no non-local blocks (nl_...) inserted by gcnet")
    result, means, size = _measure(loaded, settings)
    if not result.replaced:
        return result
    chosen = {name: means[name] for name in result.replaced}
    simplified = replace_blocks(model, chosen, settings.block, ratio=settings.ratio)
    new = loaded.with_model(simplified)
    before, after = (loaded.task.evaluate(each, settings.for_accuracy(), Processes()) for each in (loaded, new))
    costs = tuple((count_parameters(each), loaded.task.costs.count_flops(each, size)) for each in (model, simplified))
    return replace(result, model=simplified, before=before, after=after, costs=costs)


@plain_arguments(SimplifySettings)
def simplify(settings: SimplifySettings) -> Simplified:
    """Replace non-local blocks whose attention does not depend on the query by simpler blocks, in a new model file.

    Returns:
        The measured distances, the blocks replaced and unchanged, and metrics before and after. Where no block can be
        replaced, no file is written.

    Raises:
        UserError: no such network or data, or the network has no non-local blocks of `gcnet.insert`.

    Example:
        >>> model = gcnet.create_model("nl_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> result = gcnet.simplify("scenes.safetensors", data="scenes", output="snl.safetensors", all=True, limit=4)
        >>> len(result.replaced)
        1
    """
    result = run_simplification(settings)
    if result.model is not None:
        write_simplified(result.model, settings.output)
    return result


def write_simplified(model: nn.Module, output: Path) -> None:
    """Write the new network as a model file; its folder is created.

    Args:
        model: of `Simplified`.
        output: the file.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, output)


def _measure(loaded: TaskModel, settings: SimplifySettings) -> tuple[Simplified, dict[str, Tensor], tuple[int, int]]:
    """The distances of the non-local blocks, the mean of the inputs of each, and height and width of the images.

    Without layers if no image could be read.
    """
    model = loaded.trained.model
    blocks, measured = find_non_local(model), loaded.task.measured_images(loaded, settings.for_statistics(), ALONE)
    sizes = []

    def images() -> Iterator[Tensor]:
        for batch in measured.images():
            sizes.append((batch.shape[-2], batch.shape[-1]))
            yield batch

    with evaluating(model), mean_inputs(blocks) as means:
        layers = measure_layers(measured.model, images())
    threshold = None if settings.all else INDEPENDENT if settings.threshold is None else settings.threshold
    layers = [layer for layer in layers if layer.name in blocks]
    reasons = {layer.name: why_kept(blocks[layer.name], layer, threshold) for layer in layers}
    unchanged = {name: reason for name, reason in reasons.items() if reason is not None}
    skipped = tuple(measured.skipped)
    result = Simplified(tuple(layers), unchanged, settings.block, measured.worked, skipped)
    return result, means(), sizes[-1] if sizes else (0, 0)
