"""Detectors with results of fixed size: the detections are those of the detector itself."""

import pytest
import torch
from torch import Tensor, nn

from gcnet.models.detector.static_detector import StaticDetector
from gcnet.tasks.detection.inference import detect
from models.detector.test_mask_rcnn import SMALL, calibrated, detector

CONVENTIONS = ["mmdet", "mmdet1", "torchvision"]
NARROW = {"fpn_channels": 16, "head_width": 32, "image_size": SMALL}


def levels(*shape: int) -> Tensor:
    """Images of 8-bit levels."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, shape, generator=generator) / 255


def assert_same_detections(model: nn.Module, images: Tensor) -> int:
    """Compare with the detector's results, pasted masks apart; returns the number of detections."""
    static = StaticDetector(model).eval()
    with torch.no_grad():
        outputs = dict(zip(static.output_names, static(images), strict=True))
        raw = detect(model, list(images))
    for index, detections in enumerate(raw):
        count = int(outputs["count"][index])
        values = dict(detections.values)
        masks = values.pop("masks", None)
        (expected,) = model.transform.postprocess([values], [detections.size], [detections.original])  # ty: ignore
        assert count == len(expected["scores"])
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(outputs[name][index, :count], expected[name], atol=1e-4, rtol=1e-5)
            assert not outputs[name][index, count:].any(), "rows without a detection are zero"
        if masks is not None:
            torch.testing.assert_close(outputs["masks"][index, :count], masks[:, 0], atol=1e-4, rtol=1e-5)
    return int(outputs["count"].sum())


@pytest.mark.parametrize("conventions", CONVENTIONS)
@pytest.mark.parametrize("cascade", [False, True])
def test_detections_are_those_of_the_detector(conventions: str, cascade: bool) -> None:
    model = calibrated(detector(conventions=conventions, cascade=cascade, **NARROW))
    assert assert_same_detections(model, levels(2, 3, 71, 97)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("conventions", CONVENTIONS)
@pytest.mark.parametrize("size", [(97, 71), (211, 67), (53, 61), (96, 160)])
def test_sizes_smaller_and_larger_than_those_of_the_network_are_resized_as_by_the_detector(
    conventions: str, size: tuple[int, int]
) -> None:
    model = calibrated(detector(conventions=conventions, **NARROW))
    assert assert_same_detections(model, levels(1, 3, *size)) > 0


def test_a_detector_without_masks_has_boxes_only() -> None:
    model = calibrated(detector(masks=False, **NARROW))
    assert StaticDetector(model).output_names == ("boxes", "scores", "labels", "count")
    assert assert_same_detections(model, levels(1, 3, 71, 97)) > 0


def test_an_image_without_detections_has_a_count_of_zero_and_zeros() -> None:
    model = calibrated(detector(**NARROW))
    model.roi_heads.score_thresh = 1.0
    static = StaticDetector(model).eval()
    with torch.no_grad():
        outputs = static(levels(2, 3, 71, 97))
    assert not any(output.any() for output in outputs)


@pytest.mark.parametrize("conventions", CONVENTIONS)
def test_masks_pasted_by_their_boxes_are_those_of_the_detector(conventions: str) -> None:
    """The formula of docs/onnx_detect.py: bilinear between the cells of a grid over the mask box."""
    model = calibrated(detector(conventions=conventions, **NARROW))
    images, static = levels(1, 3, 71, 97), StaticDetector(model).eval()
    with torch.no_grad():
        outputs = dict(zip(static.output_names, static(images), strict=True))
        (expected,) = model(list(images))
    for row in range(int(outputs["count"][0])):
        left, top, right, bottom = outputs["mask_boxes"][0, row].tolist()
        sides = [(top, bottom, 71), (left, right, 97)]
        down, across = (_weights(*side, border=static.transform.mask_border) for side in sides)
        pasted = down @ outputs["masks"][0, row].double() @ across.T
        assert ((pasted >= 0.5) != (expected["masks"][row, 0] >= 0.5)).sum() <= 1


def _weights(start: float, stop: float, length: int, *, border: str) -> Tensor:
    places = (torch.arange(length, dtype=torch.float64) + 0.5 - start) / (stop - start) * 28 - 0.5
    inside = (places >= -0.5) & (places <= 27.5)
    if border == "edge":
        places = places.clamp(0, 27)
    return (1 - (places[:, None] - torch.arange(28)).abs()).clamp(min=0) * inside[:, None]
