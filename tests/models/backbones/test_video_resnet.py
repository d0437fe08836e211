"""ResNet-50 for clips against torchvision's for images, and the shift of frames against a loop."""

import pytest
import torch
from torchvision.models import resnet50

import gcnet
from gcnet.errors import UserError
from gcnet.models.backbones.video_resnet import shift_frames
from gcnet.models.create import create_model
from random_weights import randomize
from tolerances import assert_equal_within


def test_frames_are_shifted_in_both_directions_and_zeros_move_in() -> None:
    clips = torch.randn(2, 11, 5, 3, 2)
    expected = torch.zeros_like(clips)
    for frame in range(5):
        for channel in range(11):
            source = frame + 1 if channel < 3 else frame - 1 if channel < 6 else frame
            if 0 <= source < 5:
                expected[:, channel, frame] = clips[:, channel, source]
    assert torch.equal(shift_frames(clips, 3), expected)


@pytest.mark.slow
def test_the_slow_only_network_on_one_frame_equals_the_resnet_on_the_image() -> None:
    images = resnet50(num_classes=7).eval()
    randomize(images)
    clips = create_model("slowonly_resnet50", num_classes=7).eval()
    weights = clips.state_dict()
    for name, value in images.state_dict().items():
        if value.dim() == 4:  # the middle of a kernel over three frames is the only part that sees the frame
            kernel = torch.randn_like(weights[name])
            kernel[:, :, kernel.shape[2] // 2] = value
            value = kernel
        weights[name] = value
    clips.load_state_dict(weights)
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        assert_equal_within(clips(x[:, :, None]), images(x), torch.float32)


@pytest.mark.slow
def test_parameters_are_those_of_the_papers_networks() -> None:
    # mmaction2 lists 32.45 M for slow-only ResNet-50 and 39.81 M with five non-local blocks.
    model = create_model("slowonly_resnet50")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 32.45
    at = ["layer2.0", "layer2.2", "layer3.0", "layer3.2", "layer3.4"]
    options = {"sub_sample": True, "normalization": "batch", "example_input": (1, 3, 8, 64, 64)}
    gcnet.insert(model, "nl_embedded_gaussian", at=at, **options)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 39.81


def test_commands_refuse_networks_for_clips_in_a_sentence() -> None:
    with pytest.raises(UserError, match="tsm_resnet50 takes clips"):
        gcnet.cost("tsm_resnet50")
