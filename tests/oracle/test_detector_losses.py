"""Losses and gradients of detectors equal those of mmdet's own code on the same inputs and samples."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from gcnet.models.detector.losses import l1, projected_mask_targets, smooth_l1
from gcnet.models.detector.rpn import inside_image, inside_own_padding
from oracle.detector_batch import SHAPES, write_batch
from oracle.detector_losses import DetectorLosses
from oracle.original_code import OriginalCode

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

CONFIGS = ("faster-rcnn_r50_fpn", "mask-rcnn_r50_fpn", "cascade-mask-rcnn_r50_fpn")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def losses_of(original_code: OriginalCode, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DetectorLosses]:
    """The losses of the original with a config of mmdet, computed once."""

    @cache
    def losses(config: str) -> DetectorLosses:
        folder = tmp_path_factory.mktemp("losses")
        write_batch(folder, seed=5)
        original_code("detector_losses.run", folder=folder, config=config, shapes=SHAPES, seed=7)
        return DetectorLosses(folder)

    return losses


@pytest.mark.parametrize("config", CONFIGS)
def test_losses_and_gradients_equal_those_of_mmdet(config: str, losses_of: Callable[[str], DetectorLosses]) -> None:
    losses = losses_of(config)
    positives, differences = losses.positives_by_level(), losses.differences(losses.detector())
    print(config, "positives by level:", positives, "differences:", differences)
    assert all(min(levels) > 0 for levels in positives.values())
    assert differences.pop("positives") < 1e-3 and differences.pop("proposals") < 1e-3
    assert max(differences.values()) < TOLERANCE


def every_anchor(boxes: Tensor, _: tuple[int, int]) -> Tensor:
    return torch.ones(len(boxes), dtype=torch.bool)


MASK_RCNN, CASCADE = CONFIGS[1:]


def set_iou(model: Any) -> None:
    matcher = model.roi_heads.stages[2].matcher
    matcher.high = matcher.low = 0.65


CHANGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "best anchors of any IoU": (MASK_RCNN, lambda model: setattr(model.rpn.matcher, "min_best", 0.0)),
    "anchors in the padding": (
        MASK_RCNN,
        lambda model: setattr(model.rpn, "candidates", every_anchor),
    ),
    "anchors across the border": (CASCADE, lambda model: setattr(model.rpn, "candidates", inside_own_padding)),
    "anchors inside the image": (MASK_RCNN, lambda model: setattr(model.rpn, "candidates", inside_image)),
    "smooth L1 of proposals": (MASK_RCNN, lambda model: setattr(model.rpn, "box_loss", smooth_l1(1 / 9))),
    "beta of proposals": (CASCADE, lambda model: setattr(model.rpn, "box_loss", smooth_l1(1 / 8))),
    "smooth L1 of boxes": (MASK_RCNN, lambda model: setattr(model.roi_heads, "box_loss", smooth_l1(1 / 9))),
    "L1 of boxes": (CASCADE, lambda model: setattr(model.roi_heads.stages[1], "box_loss", l1)),
    "fractional mask targets": (
        MASK_RCNN,
        lambda model: setattr(model.roi_heads, "mask_targets", projected_mask_targets),
    ),
    "2000 proposals": (MASK_RCNN, lambda model: model.rpn._post_nms_top_n.update(training=2000)),
    "IoU of positive RoIs": (CASCADE, set_iou),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_constant_is_noticed(change: str, losses_of: Callable[[str], DetectorLosses]) -> None:
    config, alter = CHANGES[change]
    losses = losses_of(config)
    model = losses.detector()
    alter(model)
    differences = losses.differences(model)
    print(change, differences)
    assert max(differences.values()) > 1e-3
