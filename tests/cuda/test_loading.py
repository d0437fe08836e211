"""Batches moved to a device: pinned, normalized there, with the bits of the CPU."""

import pytest
import torch

from gcnet.data.coco.loading import DetectionBatch
from gcnet.data.loader import Batch
from gcnet.data.settings import IMAGENET_MEAN, IMAGENET_STD
from gcnet.data.transforms import Normalize


def all_values() -> torch.Tensor:
    """Every uint8 value in every channel, (2, 3, 16, 16), channels-last as `collate` stacks them."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    return values.expand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)


def pinned(batch, device: torch.device):
    return batch.pin_memory() if device.type == "cuda" else batch


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inputs_of_a_classifier_have_the_same_bits_on_every_device(
    memory_format: torch.memory_format, device: torch.device
) -> None:
    batch = Batch(
        all_values(),
        torch.zeros(2, dtype=torch.int64),
        ["a", "b"],
        [],
        normalize=Normalize(IMAGENET_MEAN, IMAGENET_STD),
        erased=[None, (3, 5, 7, 2)],
    )
    found = pinned(batch, device).inputs(device, memory_format=memory_format)
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found.cpu(), batch.inputs())
    assert bool((found[1, :, 3:10, 5:7] == 0).all())


def test_inputs_of_a_detector_have_the_same_bits_on_every_device(device: torch.device) -> None:
    batch = DetectionBatch(list(all_values()), [{}, {}], ["a", "b"], [1, 2], [])
    for found, values in zip(pinned(batch, device).to(device).images, batch.images, strict=True):
        assert torch.equal(found.cpu(), values.float() / 255)
