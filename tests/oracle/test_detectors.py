"""Converted detectors give the outputs of mmdet's own code, stage by stage and from the image file on."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from oracle.detector_stages import DetectorStages, original_run
from oracle.original_code import OriginalCode

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

CONFIGS = (
    "cascade-mask-rcnn_x101-32x4d-syncbn-dconv-c3-c5-r16-gcb-c3-c5_fpn_1x_coco",
    "cascade-mask-rcnn_x101-32x4d-syncbn-dconv-c3-c5-r4-gcb-c3-c5_fpn_1x_coco",
    "cascade-mask-rcnn_x101-32x4d-syncbn-dconv-c3-c5_fpn_1x_coco",
    "cascade-mask-rcnn_x101-32x4d-syncbn-r16-gcb-c3-c5_fpn_1x_coco",
    "cascade-mask-rcnn_x101-32x4d-syncbn-r4-gcb-c3-c5_fpn_1x_coco",
    "cascade-mask-rcnn_x101-32x4d-syncbn_fpn_1x_coco",
    "mask-rcnn_r101-gcb-r16-c3-c5_fpn_1x_coco",
    "mask-rcnn_r101-gcb-r4-c3-c5_fpn_1x_coco",
    "mask-rcnn_r101-syncbn-gcb-r16-c3-c5_fpn_1x_coco",
    "mask-rcnn_r101-syncbn-gcb-r4-c3-c5_fpn_1x_coco",
    "mask-rcnn_r101-syncbn_fpn_1x_coco",
    "mask-rcnn_r50-gcb-r16-c3-c5_fpn_1x_coco",
    "mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco",
    "mask-rcnn_r50-syncbn-gcb-r16-c3-c5_fpn_1x_coco",
    "mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco",
    "mask-rcnn_r50-syncbn_fpn_1x_coco",
    "mask-rcnn_x101-32x4d-syncbn-gcb-r16-c3-c5_fpn_1x_coco",
    "mask-rcnn_x101-32x4d-syncbn-gcb-r4-c3-c5_fpn_1x_coco",
    "mask-rcnn_x101-32x4d-syncbn_fpn_1x_coco",
)
# Every part of a name is in one of these; the others are tested with the marker scale.
REPRESENTATIVE = (
    "cascade-mask-rcnn_x101-32x4d-syncbn-dconv-c3-c5-r4-gcb-c3-c5_fpn_1x_coco",
    "cascade-mask-rcnn_x101-32x4d-syncbn-r16-gcb-c3-c5_fpn_1x_coco",
    "mask-rcnn_r101-gcb-r16-c3-c5_fpn_1x_coco",
    "mask-rcnn_r101-syncbn_fpn_1x_coco",
    "mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco",
    "mask-rcnn_x101-32x4d-syncbn-gcb-r16-c3-c5_fpn_1x_coco",
)
MAPS, HEADS, SCORES = 1e-3, 1e-5, 1e-3


def assert_stages_are_equal(stages: DetectorStages) -> None:
    """Heads on equal inputs differ by rounding at most, and the backbone by rounding in the blocks."""
    found = stages.all_stages()
    assert_outputs_are_equal(found)
    assert found["C2 to C5"] < MAPS
    assert found["P2 to P6"] == found["RPN head"] == 0
    for stage in ("pooled RoIs", "box head", "pooled RoIs of masks", "mask head"):
        assert found[stage] < HEADS, stage


def assert_outputs_are_equal(found: dict[str, float], *, mask_pixels: float = 1e-4, missing: int = 0) -> None:
    """At most `missing` proposals and detections are missing; at most `mask_pixels` of the mask pixels differ."""
    print(found)
    assert found["proposals missing"] <= missing and 900 < found["proposals"] == found["proposals, ours"]
    assert found["detections missing"] <= missing and found["detections"] == found["detections, ours"] == 100
    assert found["detections out of order"] <= 4  # of scores that are equal but for rounding
    assert found["boxes"] < 0.01 and found["scores"] < SCORES
    assert found["mask pixels"] > 10_000 and found["mask pixels that differ"] < mask_pixels * found["mask pixels"]


def test_the_configs_are_those_of_mmdet(original_code: OriginalCode) -> None:
    assert original_code("detectors.names") == list(CONFIGS)


def test_every_part_of_a_config_is_in_a_representative_one() -> None:
    assert parts_of(REPRESENTATIVE) == parts_of(CONFIGS)


def parts_of(configs: Sequence[str]) -> set[str]:
    """Names of architectures, backbones, norms, convolutions and ratios."""
    return {part for config in configs for part in re.split("[-_]", config)}


@pytest.mark.parametrize(
    "config",
    [
        *REPRESENTATIVE,
        *(pytest.param(config, marks=pytest.mark.scale) for config in CONFIGS if config not in REPRESENTATIVE),
    ],
)
def test_detector_gives_the_outputs_of_mmdet(
    config: str, original_code: OriginalCode, generated_image: Path, tmp_path: Path
) -> None:
    stages = original_run(original_code, tmp_path, config, image=generated_image, size=(256, 160))
    assert_stages_are_equal(stages)
    # In boxes of few pixels, most pixels are close to the border of a random mask. The normalized image differs by
    # rounding, which decides between proposals of equal scores, and between overlaps at the threshold, on some CPUs.
    assert_outputs_are_equal(stages.whole_from_file(generated_image), mask_pixels=3e-4, missing=2)


@pytest.mark.parametrize(
    "config",
    [
        CONFIGS[11],
        *(pytest.param(config, marks=pytest.mark.scale) for config in CONFIGS if config != CONFIGS[11]),
    ],
)
def test_detector_gives_the_outputs_of_mmdet_on_a_photo_of_the_published_size(
    config: str, original_code: OriginalCode, photo: Path, tmp_path: Path
) -> None:
    stages = original_run(original_code, tmp_path, config, image=photo, size=(1333, 800))
    found = stages.whole_from_file(photo)
    assert_outputs_are_equal(found, missing=2)
    assert found["proposals"] == 1000
