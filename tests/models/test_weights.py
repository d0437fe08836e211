"""Weights of a classifier in a detector's backbone: the same features, whoever wrote the file; all else is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.insertion import context_parameters
from gcnet.models.create import create_model
from gcnet.models.detector.backbone import DeformableConv2d
from gcnet.models.model_file import save_model

LAST = {"cifar_resnet20": "layer3", "scenes_resnet": "layer1"}


def moved(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights that no fresh one has."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value, low in ((module.running_mean, -0.2), (module.running_var, 0.7), (module.weight, 0.5)):
                    value.copy_(low + 0.6 * torch.rand(value.shape, generator=generator))
    return model.eval()


def features(model: nn.Module, last: str, images: Tensor) -> Tensor:
    """The output of a classifier's last stage, in its own forward."""
    found: list[Tensor] = []
    handle = getattr(model, last).register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


def save_ours(path: Path) -> nn.Module:
    model = moved(create_model("resnet18", num_classes=7))
    save_model(model, path)
    return model


def save_torchvisions(path: Path) -> nn.Module:
    model = moved(torchvision.models.resnet18())
    torch.save(model.state_dict(), path)
    return model


def save_timms(path: Path) -> nn.Module:
    model = moved(timm.create_model("resnet18", num_classes=3))
    torch.save({"state_dict": model.state_dict()}, path)
    return model


def save_without_counters(path: Path) -> nn.Module:
    model = moved(torchvision.models.resnet18())
    torch.save({name: value for name, value in model.state_dict().items() if "num_batches" not in name}, path)
    return model


SOURCES = {
    "ours.safetensors": save_ours,
    "torchvision.pth": save_torchvisions,
    "timm.pth": save_timms,
    "old.pth": save_without_counters,
}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("mask_rcnn_resnet18", "eval_stats"),
        ("mask_rcnn_gc_resnet18", "frozen"),
        ("cascade_mask_rcnn_nl_resnet18", "sync"),
    ],
)
@pytest.mark.parametrize(("file", "save"), SOURCES.items(), ids=SOURCES)
@pytest.mark.slow
def test_a_backbone_has_the_features_of_the_classifier_whose_weights_it_got(
    tmp_path: Path, file: str, save: Callable[[Path], nn.Module], name: str, norm: str
) -> None:
    classifier = save(tmp_path / file)
    images = torch.randn(2, 3, 67, 71)
    model = create_model(name, num_classes=2, detector={"norm": norm}, backbone_weights=tmp_path / file).eval()
    with torch.no_grad():
        found = model.backbone.body(images)["3"]
    torch.testing.assert_close(found, features(classifier, "layer4", images))


@pytest.mark.parametrize("base", ["cifar_resnet20", "scenes_resnet"])
@pytest.mark.parametrize("prefix", ["", "gc_"])
def test_small_backbones_load_the_weights_of_their_classifiers(tmp_path: Path, base: str, prefix: str) -> None:
    classifier = moved(create_model(base))
    save_model(classifier, tmp_path / "classifier.safetensors")
    images = torch.randn(2, 3, 37, 41)
    file = tmp_path / "classifier.safetensors"
    model = create_model(f"mask_rcnn_{prefix}{base}", num_classes=3, backbone_weights=file).eval()
    with torch.no_grad():
        found = list(model.backbone.body(images).values())[-1]
    torch.testing.assert_close(found, features(classifier, LAST[base], images))


def test_offsets_of_deformable_convolutions_keep_their_initialization(tmp_path: Path) -> None:
    classifier = moved(torchvision.models.resnet50())
    torch.save(classifier.state_dict(), tmp_path / "resnet50.pth")
    model = create_model("mask_rcnn_gc_resnet50_dcn", backbone_weights=tmp_path / "resnet50.pth").eval()
    deformable = [module for module in model.modules() if isinstance(module, DeformableConv2d)]
    assert len(deformable) == 4 + 6 + 3
    assert not any(parameter.any() for module in deformable for parameter in module.conv_offset.parameters())
    images = torch.randn(1, 3, 67, 71)
    with torch.no_grad():
        found = model.backbone.body(images)["3"]
    torch.testing.assert_close(found, features(classifier, "layer4", images), atol=1e-4, rtol=1e-4)


def test_blocks_of_a_classifier_are_loaded_with_its_weights(tmp_path: Path) -> None:
    classifier = create_model("gc_resnet18", num_classes=2)
    with torch.no_grad():
        for _, parameter in context_parameters(classifier):
            parameter.normal_(std=0.1)
    save_model(moved(classifier), tmp_path / "gc.safetensors")
    images = torch.randn(2, 3, 67, 71)
    model = create_model("mask_rcnn_gc_resnet18", backbone_weights=tmp_path / "gc.safetensors").eval()
    with torch.no_grad():
        found = model.backbone.body(images)["3"]
    torch.testing.assert_close(found, features(classifier, "layer4", images))
    with pytest.raises(UserError, match=r"hold the unknown layer2\.0\.context"):
        create_model("mask_rcnn_resnet18", backbone_weights=tmp_path / "gc.safetensors")
    with pytest.raises(UserError, match=r"lack layer4\.\d\.context"):
        state = {name: value for name, value in classifier.state_dict().items() if "layer4.1.context" not in name}
        torch.save(state, tmp_path / "part.pth")
        create_model("mask_rcnn_gc_resnet18", backbone_weights=tmp_path / "part.pth")


def test_weights_of_another_backbone_are_refused_by_name_and_by_shape(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(UserError, match=r"deeper\.pth do not fit this network: they hold the unknown layer1\.2"):
        create_model("mask_rcnn_resnet18", backbone_weights=tmp_path / "deeper.pth")
    state = torchvision.models.resnet18().state_dict()
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "gray.pth")
    with pytest.raises(UserError, match=r"another shape of conv1\.weight"):
        create_model("mask_rcnn_resnet18", backbone_weights=tmp_path / "gray.pth")
    torch.save({name: value for name, value in state.items() if name != "bn1.weight"}, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"they lack bn1\.weight"):
        create_model("mask_rcnn_resnet18", backbone_weights=tmp_path / "less.pth")


MISTAKES = {
    "classifier": (
        {"name": "gc_resnet18", "backbone_weights": "w.pth"},
        'needs a detector, and "resnet18" is a classifier: use `weights`',
    ),
    "both": (
        {"name": "mask_rcnn_resnet18", "backbone_weights": "w.pth", "weights": "w.pth"},
        "use either `weights`",
    ),
    "no file": (
        {"name": "mask_rcnn_cifar_resnet20", "backbone_weights": "w.pth"},
        "there is no weights file w.pth",
    ),
    "unpublished": (
        {"name": "mask_rcnn_gc_cifar_resnet20", "backbone_weights": "pretrained"},
        'no pretrained weights are published for "cifar_resnet20": give `backbone_weights=FILE`',
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_invalid_arguments_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create_model(**arguments)


def test_published_weights_for_a_backbone_are_those_of_its_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    published = moved(torchvision.models.resnet50()).state_dict()
    asked: list[object] = []

    def answer(weights: object, **_: object) -> dict[str, Tensor]:
        asked.append(weights)
        return published

    monkeypatch.setattr("gcnet.models.pretrained._require_network", lambda *_: None)
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", answer)
    model = create_model("mask_rcnn_gc_resnet50_dcn", backbone_weights="pretrained", download=True)
    assert asked == [torchvision.models.ResNet50_Weights.DEFAULT]
    assert torch.equal(model.backbone.body.layer3[5].conv2.weight, published["layer3.5.conv2.weight"])


def test_without_a_network_published_weights_for_a_backbone_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to base")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    with pytest.raises(
        UserError, match="resnet18 IMAGENET1K_V1 is not in the cache, and download.pytorch.org cannot be reached"
    ):
        create_model("mask_rcnn_resnet18", backbone_weights="pretrained", download=True)


@pytest.mark.parametrize(
    "name", ["mask_rcnn_gc_scenes_resnet", "cascade_mask_rcnn_scenes_resnet", "faster_rcnn_scenes_resnet"]
)
def test_a_detector_starts_from_weights_with_other_classes(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = create_model(name, num_classes=5)
    save_model(source, tmp_path / "five.safetensors")
    model = create_model(name, num_classes=2, weights=tmp_path / "five.safetensors")
    own, found = model.state_dict(), source.state_dict()
    new = {key.rpartition(".")[0] for key in own if own[key].shape != found[key].shape}
    assert {layer.rpartition(".")[2] for layer in new} <= {"cls_score", "bbox_pred", "mask_fcn_logits"}
    assert all(torch.equal(own[key], found[key]) for key in own if key.rpartition(".")[0] not in new)
    assert "6 outputs in the weights, 3 in the network" in caplog.text
    assert all(layer in caplog.text for layer in new)
    with pytest.raises(UserError, match="do not fit"):
        create_model(name, num_classes=2, weights=tmp_path / "five.safetensors", detector={"fpn_channels": 32})


@pytest.mark.parametrize(
    ("weights_of", "name", "argument", "hint"),
    [
        ("gc_cifar_resnet20", "cifar_resnet20", "weights", "with context blocks: insert the same blocks"),
        ("gc_cifar_resnet20", "mask_rcnn_cifar_resnet20", "backbone_weights", "with context blocks: insert the same"),
        ("cifar_resnet20", "mask_rcnn_cifar_resnet20", "weights", "use `backbone_weights` for weights of a classifier"),
    ],
)
def test_weights_of_another_kind_of_network_are_recognized(
    tmp_path: Path, weights_of: str, name: str, argument: str, hint: str
) -> None:
    torch.save(create_model(weights_of).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"do not fit this network.*{hint}"):
        create_model(name, **{argument: tmp_path / "other.pth"})
