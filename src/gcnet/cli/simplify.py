"""`gcnet simplify`: replaces query-independent non-local blocks by simpler ones."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from gcnet.errors import UserError
from gcnet.workflows.simplify import SimplifySettings

if TYPE_CHECKING:
    from torch import Tensor

    from gcnet.analysis.query_independence import Layer
    from gcnet.tasks.classification.metrics import ClassificationResult
    from gcnet.tasks.trained import TrainedClassifier


SUMMARY = "replace query-independent non-local blocks by simpler ones that start from their weights"

Settings = SimplifySettings


def run(settings: SimplifySettings) -> int:
    """Measure, replace, judge and write; 0 if at least one block was replaced, 1 if none could be."""
    from gcnet.analysis.simplification import find_non_local, simplify
    from gcnet.devices import choose_device
    from gcnet.models.model_file import save_model
    from gcnet.tasks.trained import open_network

    device = choose_device(settings.device)
    network = open_network(settings.model, settings.weights, image_size=settings.preprocessing.image_size)
    network.model.to(device)
    if not find_non_local(network.model):
        raise UserError(
            f"{settings.model} has none of the non-local blocks (nl_...) that gcnet.insert puts into networks"
        )
    layers, means = _measure(network, settings)
    if not layers:
        return 1
    chosen = _choose(network, layers, settings)
    if not chosen:
        print("gcnet: no block can be replaced, and nothing was written", file=sys.stderr)
        return 1
    model = simplify(network.model, {name: means[name] for name in chosen}, settings.block, ratio=settings.ratio)
    simplified = replace(network, model=model)
    _print_comparison(network, simplified, settings)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, settings.output)
    print(f"\nwrote {settings.output}")
    return 0


def _measure(network: "TrainedClassifier", settings: SimplifySettings) -> "tuple[list[Layer], dict[str, Tensor]]":
    """The distances of every non-local block, and the mean of its inputs; nothing if no image worked."""
    from gcnet.analysis.query_independence import measure_layers
    from gcnet.analysis.simplification import find_non_local, mean_inputs
    from gcnet.cli.analyze_data import open_run
    from gcnet.cli.files import report_skipped
    from gcnet.models.outputs import evaluating

    run, blocks = open_run(network, settings.for_statistics()), find_non_local(network.model)
    with evaluating(network.model), mean_inputs(blocks) as means:
        layers = measure_layers(network.model, run.images())
    report_skipped(run.skipped, run.worked, "measured")
    return [layer for layer in layers if layer.name in blocks], means()


def _choose(network: "TrainedClassifier", layers: "list[Layer]", settings: SimplifySettings) -> list[str]:
    """Print what becomes of every block, and why; the names of those to replace."""
    from gcnet.analysis.replacement import INDEPENDENT, dependence
    from gcnet.analysis.simplification import find_non_local, why_kept

    threshold = None if settings.all else INDEPENDENT if settings.threshold is None else settings.threshold
    blocks = find_non_local(network.model)
    reasons = {layer.name: why_kept(blocks[layer.name], layer, threshold) for layer in layers}
    print("distance: average cosine distance of maps, and of what is added, between positions; the higher upper end of")
    print(f"their 95 % intervals over {layers[0].images:,} images\n")
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    print(f"{'layer':<{width}}  distance")
    for layer in layers:
        reason = reasons[layer.name]
        fate = f"{settings.block} in its place" if reason is None else f"kept: {reason}"
        print(f"{layer.name:<{width}}  {dependence(layer):<8.4f}  {fate}")
    return [name for name, reason in reasons.items() if reason is None]


def _print_comparison(before: "TrainedClassifier", after: "TrainedClassifier", settings: SimplifySettings) -> None:
    from gcnet.analysis.cost import count_flops, count_parameters
    from gcnet.cli.evaluate_classifier import judge, open_images
    from gcnet.training.distributed import Processes

    accuracy, alone = settings.for_accuracy(), Processes()
    source, preprocessing = open_images(accuracy, before, alone)
    size = preprocessing.image_size
    print(f"\n{'':<6}  {'top-1':<26}  {'loss':<7}  {'parameters':>12}  {'MFLOPs an image':>15}")
    for title, network in (("before", before), ("after", after)):
        result = judge(network, source, preprocessing, accuracy, alone)
        megaflops = count_flops(network.model, (1, 3, size, size)) / 1e6
        parameters = count_parameters(network.model)
        print(f"{title:<6}  {_top1(result):<26}  {result.loss:<7.4f}  {parameters:>12,}  {megaflops:>15,.4g}")
    print(f"{result.images:,} images evaluated, {len(result.skipped):,} skipped; 95 % intervals")
    if settings.block == "gc":
        print("gc attends as the blocks did, but its bottleneck starts anew and adds nothing yet: train it further.")


def _top1(result: "ClassificationResult") -> str:
    low, high = result.interval
    return f"{result.top1:.2%} ({low:.2%}-{high:.2%})"
