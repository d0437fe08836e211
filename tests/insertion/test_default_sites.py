"""Default sites in networks with answers of every form: logits of pixels, images, grids of boxes, tokens."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.insertion import insert, inserted


def convolution(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU())


class UNet(nn.Module):
    """Down three times and up again, then logits of every pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (8, 16, 32, 64)
        self.first = convolution(3, 8)
        self.down = nn.ModuleList([convolution(a, b, 2) for a, b in zip(widths, widths[1:], strict=False)])
        self.up = nn.ModuleList([convolution(a + b, a) for a, b in zip(widths, widths[1:], strict=False)])
        self.logits = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.first(x)]
        for down in self.down:
            maps.append(down(maps[-1]))
        x = maps.pop()
        for up in reversed(self.up):
            x = up(torch.cat([maps.pop(), F.interpolate(x, scale_factor=2.0)], dim=1))
        return self.logits(x)


class Generator(nn.Sequential):
    """DCGAN's: a vector of noise to an image of three channels."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.ConvTranspose2d(16, 64, 4), nn.BatchNorm2d(64), nn.ReLU(True)]
        for width in (64, 32, 16):
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU(True)]
        super().__init__(*layers, nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())


class Grid(nn.Module):
    """A backbone of three levels, and as YOLO has them at each a branch for boxes and one for classes."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 4)
        self.levels = nn.ModuleList([convolution(16, 32, 2), convolution(32, 64, 2), convolution(64, 64, 2)])
        self.boxes = nn.ModuleList([self._branch(width, 64) for width in (32, 64, 64)])
        self.classes = nn.ModuleList([self._branch(width, classes) for width in (32, 64, 64)])

    @staticmethod
    def _branch(width: int, out: int) -> nn.Sequential:
        return nn.Sequential(convolution(width, 64), convolution(64, 64), nn.Conv2d(64, out, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, boxes, classes = self.stem(x), [], []
        for level, box, label in zip(self.levels, self.boxes, self.classes, strict=True):
            x = level(x)
            boxes.append(box(x).flatten(2))
            classes.append(label(x).flatten(2))
        return torch.cat(boxes, 2), torch.cat(classes, 2).sigmoid()


class Upsampled(nn.Module):
    """Logits at a small resolution, enlarged, and an auxiliary head on an earlier stage."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([convolution(3, 16, 4), convolution(16, 32, 2), convolution(32, 64, 2)])
        self.head = nn.Sequential(convolution(64, 64), nn.Dropout(0.1), nn.Conv2d(64, classes, 1))
        self.extra = nn.Sequential(convolution(32, 32), nn.Conv2d(32, classes, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size, maps = x.shape[-2:], []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return {"out": F.interpolate(self.head(x), size), "aux": F.interpolate(self.extra(maps[1]), size)}


class Restorer(nn.Module):
    """Adds what it finds missing to the image, at the resolution of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(3, 16), convolution(16, 16, 2), convolution(16, 32, 2))
        self.last = nn.Sequential(nn.Conv2d(32, 48, 1), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.body(x))


class Backbone(nn.Module):
    """Maps of every stage as the answer; its blocks end in a residual sum without a norm or an activation."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 4 if a == 3 else 2, 1), Backbone.Block(b))
            for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "two classes": (lambda: UNet(2), (3, 64, 64), ["down.1.2", "down.2.2", "up.2.2"]),
    "one class": (lambda: UNet(1), (3, 64, 64), ["down.1.2", "down.2.2", "up.2.2"]),
    "many classes": (lambda: UNet(21), (3, 64, 64), ["down.1.2", "down.2.2", "up.2.2"]),
    "generated images": (Generator, (16, 1, 1), ["2", "5", "8", "11"]),
    "grids": (Grid, (3, 64, 64), ["stem.2", "levels.0.2", "levels.1.2", "levels.2.2"]),
    "enlarged": (lambda: Upsampled(2), (3, 64, 64), ["stages.0.2", "stages.1.2", "stages.2.2"]),
    "restored": (Restorer, (3, 64, 64), ["body.0.2", "body.1.2", "body.2.2"]),
    "features": (Backbone, (3, 64, 64), ["stages.0.1", "stages.1.1", "stages.2.1"]),
    "vgg features": (lambda: torchvision.models.vgg11().features, (3, 64, 64), ["9", "14", "19"]),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_inserted_on_features_and_never_on_the_output(case: str) -> None:
    build, shape, expected = CASES[case]
    model, x = build().eval(), torch.randn(2, *shape)
    answer = leaves(model(x))
    insert(model, "gc", example_input=shape)
    assert [site.name for site in inserted(model)[0].sites] == expected
    assert all(torch.equal(first, second) for first, second in zip(leaves(model(x)), answer, strict=True))


def leaves(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return list(output.values()) if isinstance(output, dict) else list(output)


def test_a_network_of_outputs_alone_asks_for_at() -> None:
    with pytest.raises(UserError, match="no default sites in Sequential.*use `at`"):
        insert(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Upsample(scale_factor=2)), "gc", example_input=(3, 16, 16))


class Shared(nn.Module):
    """One activation for all stages, two of which have the same resolution, under several names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 32, 2, 2)
        self.act = nn.ReLU()
        self.again = self.act
        self.end = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.two(self.act(self.one(x))))
        return self.end(self.three(x).mean((2, 3)))


def test_an_activation_that_is_used_twice_takes_no_block() -> None:
    sites = [site.name for site in insert(Shared(), "gc", example_input=(3, 32, 32)).sites]
    assert sites == ["two", "three"]
    for name in ("act", "again"):
        with pytest.raises(UserError, match="act has no parameters and is called 2 times in one run"):
            insert(Shared(), "gc", at=name, example_input=(3, 32, 32))


VITS = {
    "class token": ({}, False),
    "average": ({"global_pool": "avg"}, True),
    "all tokens": ({"global_pool": ""}, True),
    "no head": ({"num_classes": 0}, False),
}


@pytest.mark.parametrize("case", VITS)
def test_the_last_block_of_a_vit_takes_a_block_where_its_tokens_are_read(case: str) -> None:
    options, all_tokens = VITS[case]
    model = timm.create_model("test_vit", img_size=48, **options).eval()
    names = [site.name for site in insert(model, "gc", example_input=(3, 48, 48)).sites]
    assert names == [f"blocks.{index}" for index in range(len(model.blocks) if all_tokens else len(model.blocks) - 1)]


class LikeHuggingFace(nn.Module):
    """All tokens, and the class token pooled, in a dict."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        tokens = self.vit.forward_features(pixel_values)
        return {"last_hidden_state": tokens, "pooler_output": tokens[:, 0].tanh()}


def test_tokens_are_read_where_they_are_one_of_several_outputs() -> None:
    model = LikeHuggingFace(timm.create_model("test_vit", img_size=48))
    assert len(insert(model, "gc", example_input={"pixel_values": torch.zeros(1, 3, 48, 48)}).sites) == len(
        model.vit.blocks
    )


def mvit(strides: tuple[int, ...]) -> nn.Module:
    """One block for each stride of its queries."""
    return torchvision.models.video.MViT(
        spatial_size=(32, 32),
        temporal_size=4,
        block_setting=[
            torchvision.models.video.mvit.MSBlockConfig(
                1, 16, 16, [3, 3, 3], [3, 3, 3], [1, stride, stride], [1, stride, stride]
            )
            for stride in strides
        ],
        residual_pool=False,
        residual_with_cls_embed=False,
        rel_pos_embed=False,
        proj_after_attn=False,
        num_classes=5,
    )


@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 1, 2, 1)])
def test_token_blocks_that_return_tuples_are_sites(strides: tuple[int, ...]) -> None:
    model, x = mvit(strides).eval(), torch.randn(2, 3, 4, 32, 32)
    before = model(x)
    insertion = insert(model, "gc", example_input=x, ratio=4)
    assert [site.name for site in insertion.sites] == [f"blocks.{index}" for index in range(len(strides) - 1)]
    assert {site.form for site in insertion.sites} == {"tokens"}
    assert all(block.context_insertion.layout.prefix == 1 for block in model.blocks[:-1])
    assert torch.equal(model(x), before)


class PixelsAndPatches(nn.Module):
    """A block of TNT: a tuple of fine and coarse tokens, each read by the next block, the first by the head not."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(fine)
        return fine, self.coarse(coarse + fine)


class LikeTnt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Conv2d(3, 8, 2, 2), nn.ModuleList([PixelsAndPatches() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        fine = coarse = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            fine, coarse = block(fine, coarse)
        return coarse.mean(1)


def test_the_last_block_takes_none_where_the_first_item_of_its_tuple_is_not_read() -> None:
    model = LikeTnt()
    names = [site.name for site in insert(model, "gc", ratio=2, example_input=(3, 16, 16)).sites]
    assert names == ["blocks.0", "blocks.1"]


class Pair(nn.Module):
    """An encoder that is run on two images, as for stereo or for change detection."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(convolution(3, 8, 2), convolution(8, 16, 2), convolution(16, 32, 2))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.encoder(first) - self.encoder(second)).mean((2, 3))


def test_the_activations_of_an_encoder_that_runs_twice_are_not_shared_ones() -> None:
    model, x = Pair(), torch.randn(2, 3, 32, 32)
    names = [site.name for site in insert(model, "gc", example_input=(x, x)).sites]
    assert names == ["encoder.0.2", "encoder.1.2", "encoder.2.2"]


class Scaled(nn.Sequential):
    """A Sequential with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_parts_of_sequentials_with_their_own_forward_are_sites() -> None:
    layers = [Scaled(nn.Conv2d(width, 2 * width, 3, 2), nn.ReLU()) for width in (4, 8, 16)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), *layers)
    assert [site.name for site in insert(model, "gc").sites] == ["1.1", "2.1", "3.1"]


def test_one_activation_in_several_sequentials_takes_no_block() -> None:
    activation = nn.ReLU()
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(width, out, 3, 2), activation) for width, out in ((3, 8), (8, 16), (16, 32)))
    )
    assert [site.name for site in insert(model, "gc").sites] == ["0.0", "1.0", "2.0"]
