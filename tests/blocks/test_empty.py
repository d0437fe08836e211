"""Batches without a sample, as a detector's heads get them from an image without detections."""

import pytest
import torch
from torch import nn

from gcnet.insertion import insert
from gcnet.models.create import create_model
from named_blocks import SIDES, every, every_dims, make
from random_weights import randomize


@every
@every_dims
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_empty_batch_stays_empty_and_has_gradients_of_zero(name: str, dims: int, training: bool) -> None:
    block = randomize(make(name, dims=dims)).train(training)
    before = {key: tensor.clone() for key, tensor in block.state_dict().items() if "running" in key}
    x = torch.randn(0, 22, *SIDES[dims], requires_grad=True)
    output = block(x)
    assert output.shape == x.shape
    output.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), key
    if not training:
        assert all(torch.equal(block.state_dict()[key], tensor) for key, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in block.state_dict().values())


@pytest.mark.parametrize("block", ["gc", "nl_embedded_gaussian", "srm"])
def test_inserted_block_takes_empty_tokens_and_maps(block: str) -> None:
    for base, x in ((nn.Linear(6, 16), torch.randn(0, 5, 6)), (nn.Conv2d(3, 16, 3), torch.randn(0, 3, 7, 7))):
        model = nn.Sequential(nn.Identity(), base).eval()
        insert(model, block, at="1", example_input=torch.randn(2, *x.shape[1:]))
        assert model(x).shape == base(x).shape


@pytest.mark.parametrize("place", ["roi_heads.mask_head.3.0", "roi_heads.box_roi_pool"])
def test_detector_with_a_block_in_its_heads_takes_an_image_without_detections(place: str) -> None:
    model = create_model("mask_rcnn_cifar_resnet20", num_classes=2, detector={"image_size": (32, 32)}).eval()
    images = [torch.rand(3, 32, 32)]
    insert(model, "gc", at=place, example_input=(images,))
    model.roi_heads.score_thresh = 1.1
    with torch.no_grad():
        (found,) = model(images)
    assert len(found["boxes"]) == 0 and found["masks"].shape == (0, 1, 32, 32)
