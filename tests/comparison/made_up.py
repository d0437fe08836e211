"""A made-up comparison, whose numbers can be checked by hand."""

import base64
import io

from PIL import Image

from gcnet.comparison.results import CONTROL, MAIN, Comparison, Cost, CurvePoint, Picture, Run

TOP1 = {
    MAIN: {"none": (0.70, 0.72, 0.71), "se": (0.705, 0.715, 0.72), "gc": (0.90, 0.91, 0.905)},
    CONTROL: {"none": (0.95, 0.96, 0.95), "gc": (0.95, 0.955, 0.955)},
}
MASK_AP = {
    MAIN: {"none": (0.30, 0.32, 0.31), "gc": (0.40, 0.41, 0.405)},
    CONTROL: {"none": (0.55, 0.56, 0.55), "gc": (0.55, 0.555, 0.555)},
}
COSTS = {"none": (100_000, 2.0, 0.010), "se": (101_000, 2.001, 0.0105), "gc": (102_500, 2.002, 0.012)}


def _run(setting: str, block: str, seed: int, scores: dict[str, float]) -> Run:
    curve = tuple(
        CurvePoint(float(epoch), 2.0 - 0.3 * epoch, {column: value * epoch / 5 for column, value in scores.items()})
        for epoch in range(1, 6)
    )
    return Run(setting, block, seed, scores, 1000, 0, 12.5, curve)


def _cost(block: str) -> Cost:
    parameters, flops, step = COSTS[block]
    added = round(1e9 * flops - 2e9)
    return Cost(
        sites=2,
        parameters=parameters,
        added_parameters=parameters - 100_000,
        flops=round(1e9 * flops),
        added_flops=added,
        analytic_flops=added,
        forward_seconds_min=step / 3,
        forward_seconds_median=step / 2.5,
        step_seconds_min=step * 0.9,
        step_seconds_median=step,
        peak_memory_bytes=round(step * 1e10),
    )


def _picture() -> Picture:
    stream = io.BytesIO()
    Image.new("RGB", (7, 5), (200, 30, 60)).save(stream, format="png")
    return Picture("3 brighter", base64.b64encode(stream.getvalue()).decode())


def made_up(*, seeds: int = 3, blocks: tuple[str, ...] = ("none", "se", "gc"), control: bool = True) -> Comparison:
    """A comparison of classifiers over up to three seeds, with or without the control setting."""
    return _comparison("tiny_net", TOP1, ("top1_fraction",), seeds=seeds, blocks=blocks, control=control)


def made_up_detectors(*, seeds: int = 3, blocks: tuple[str, ...] = ("none", "gc"), control: bool = True) -> Comparison:
    """The same of detectors; their box AP is 0.1 above their mask AP."""
    columns = ("segm_AP_fraction", "bbox_AP_fraction")
    return _comparison("mask_rcnn_scenes_resnet", MASK_AP, columns, seeds=seeds, blocks=blocks, control=control)


def _comparison(
    model: str,
    values: dict[str, dict[str, tuple[float, ...]]],
    columns: tuple[str, ...],
    *,
    seeds: int,
    blocks: tuple[str, ...],
    control: bool,
) -> Comparison:
    settings = (MAIN, CONTROL) if control else (MAIN,)
    runs = tuple(
        _run(setting, block, seed, {column: found[seed] + 0.1 * index for index, column in enumerate(columns)})
        for setting in settings
        for block, found in values[setting].items()
        if block in blocks
        for seed in range(seeds)
    )
    return Comparison(
        model=model,
        data="scenes",
        control_data="scenes-control" if control else None,
        blocks=blocks,
        seeds=tuple(range(seeds)),
        runs=runs,
        costs={block: _cost(block) for block in blocks},
        about={"recipe": "sgd <0.1>, 5 epochs"},
        environment={"device": "cpu", "torch": "2"},
        timing={"repetitions": 7, "batch_size": 16, "memory_batch_size": 32},
        created="2026-01-02 03:04 UTC",
        pictures=(_picture(),),
    )
