"""Small networks of every layout, and what the tests of insertion do to all of them."""

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from gcnet.insertion import context_parameters


def plain(dims: int = 2, *, width: int = 12) -> nn.Module:
    """Convolutions, activations and poolings in a row, for 1, 2 or 3 spatial axes."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
    end = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    layers: list[nn.Module] = []
    for stage, channels in enumerate((3, width, 2 * width)):
        out = width * 2**stage
        layers += [convolution(channels, out, 3, padding=1), norm(out), nn.ReLU(inplace=True), pool(2)]
    return nn.Sequential(*layers[:-1], end(1), nn.Flatten(), nn.Linear(4 * width, 7))


def swin() -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=7,
        img_size=64,
        window_size=4,
        embed_dim=16,
        depths=(1, 2, 1),
        num_heads=(1, 2, 2),
    )


BASE_MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1-D": (lambda: plain(1), (3, 61)),
    "2-D": (plain, (3, 23, 29)),
    "3-D": (lambda: plain(3), (3, 5, 11, 13)),
    "convnext": (lambda: timm.create_model("test_convnext", num_classes=7), (3, 67, 71)),
    "efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=7), (3, 67, 71)),
    "swin": (swin, (3, 64, 64)),
    "vit": (lambda: timm.create_model("test_vit", num_classes=7, img_size=48), (3, 48, 48)),
}


def create(name: str) -> nn.Module:
    """The network, in eval mode, with the same weights every time."""
    torch.manual_seed(0)
    return BASE_MODELS[name][0]().eval()


def images(name: str, batch: int = 2) -> Tensor:
    """What the network takes."""
    return torch.randn(batch, *BASE_MODELS[name][1], generator=torch.Generator().manual_seed(1))


def randomize(model: nn.Module) -> nn.Module:
    """Move every inserted block away from its start, at which the last layers are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model
