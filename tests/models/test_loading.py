"""Weights as training programs wrap them, for other classes, without a head, of two heads, at other sizes."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.weights import loaded_weights
from gcnet.tasks.classification.trained import TrainedClassifier
from gcnet.tasks.trained import open_trained

NAME = "cifar_resnet20"


def state(classes: int = 10) -> dict[str, Tensor]:
    torch.manual_seed(classes)
    return create_model(NAME, num_classes=classes).state_dict()


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def parts(backbone: str, head: str) -> dict[str, Tensor]:
    """The names of a library that holds the classifier apart from the rest."""
    return {(head if name.startswith("linear.") else backbone) + name: value for name, value in state().items()}


WRAPPED: dict[str, Callable[[], Any]] = {
    "plain": state,
    "data parallel": lambda: under("module.", state()),
    "compiled": lambda: under("_orig_mod.", state()),
    "compiled and parallel": lambda: {"model": under("module._orig_mod.", state())},
    "lightning": lambda: {"state_dict": under("model.", state()), "epoch": 3, "loops": {}},
    "lightning net": lambda: {"state_dict": under("net.", state()) | {"loss.weight": torch.ones(3)}},
    "encoder": lambda: under("student.network.", state()),
    "backbone and head": lambda: {"state_dict": parts("backbone.", "head."), "meta": {"epoch": 1}},
    "model_state": lambda: {"model_state": state(), "optimizer": {"state": {}}},
    "model_state_dict": lambda: {"model_state_dict": state()},
    "params": lambda: {"params": state(), "params_ema": state(10)},
    "ema alone": lambda: {"state_dict_ema": state(), "epoch": 1},
    "averaged": lambda: {"model_ema": under("module.", state()) | {"n_averaged": torch.tensor(3)}},
    "deepspeed": lambda: {"module": state()},
    "namespace": lambda: {"state_dict": state(), "args": argparse.Namespace(lr=0.1)},
    "numpy numbers": lambda: {"model": state(), "best": np.float64(0.5), "history": np.ones(3)},
    "paths": lambda: {"model": state(), "output": Path("runs/a")},
    "beside numbers": lambda: state() | {"epoch": 3},
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_weights_are_found_in_the_wrappers_of_training_programs(
    tmp_path: Path, wrapped: Callable[[], Any], legacy: bool
) -> None:
    torch.save(wrapped(), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    model = create_model(f"gc_{NAME}", weights=tmp_path / "w.pth")
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state().items())


def test_loaded_weights_are_reported_in_one_line(tmp_path: Path) -> None:
    torch.save({"state_dict": under("model.", state()) | {"loss.weight": torch.ones(2)}}, tmp_path / "w.pth")
    model = create_model(f"gc_{NAME}", num_classes=3, weights=tmp_path / "w.pth")
    loaded = loaded_weights(model)
    assert loaded is not None
    tensors = len(state()) - 2
    assert str(loaded).startswith(f'{tensors} tensors from {tmp_path / "w.pth"}; entry "state_dict"; prefix "model." ')
    assert "1 tensors outside it skipped (loss.weight)" in str(loaded)
    assert "classifier initialized anew (linear): 10 outputs in the weights, 3 in the network" in str(loaded)
    assert "tensors of blocks initialized anew" in str(loaded)
    assert loaded_weights(create_model(NAME)) is None


def test_a_file_of_several_networks_is_refused_with_their_names(tmp_path: Path) -> None:
    torch.save(under("encoder_q.", state()) | under("encoder_k.", state()), tmp_path / "moco.pth")
    with pytest.raises(UserError, match='of several networks, "encoder_k." and "encoder_q."'):
        create_model(NAME, weights=tmp_path / "moco.pth")


def test_an_entry_of_any_name_is_taken_where_it_is_the_only_network(tmp_path: Path) -> None:
    torch.save({"student": under("module.", state()), "optimizer": {"state": {0: {"step": 1}}}}, tmp_path / "w.pth")
    loaded = loaded_weights(create_model(NAME, weights=tmp_path / "w.pth"))
    assert 'entry "student"; prefix "module." removed' in str(loaded)
    torch.save({"student": state(), "teacher": state(), "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match='holds several networks, "student" and "teacher": save one of them alone'):
        create_model(NAME, weights=tmp_path / "w.pth")


def test_an_mmdet_checkpoint_is_recognized(tmp_path: Path) -> None:
    names = [
        "backbone.conv1.weight",
        "backbone.layer2.0.context_block.conv_mask.weight",
        "roi_head.bbox_head.fc_cls.bias",
    ]
    torch.save({"meta": {}, "state_dict": dict.fromkeys(names, torch.ones(1))}, tmp_path / "r50.pth")
    with pytest.raises(UserError, match=r"a checkpoint of mmdet .*\(backbone\.conv1\.weight, .*gcnet convert"):
        create_model("mask_rcnn_gc_scenes_resnet", weights=tmp_path / "r50.pth")


def test_a_classifier_with_mmdets_blocks_is_recognized(tmp_path: Path) -> None:
    blocks = {"backbone.layer1.0.context_block.conv_mask.weight": torch.ones(1, 16, 1, 1)}
    torch.save({"state_dict": parts("backbone.", "head.") | blocks}, tmp_path / "r20.pth")
    with pytest.raises(UserError, match=r"like a checkpoint of mmdet .*: gcnet convert "):
        create_model(f"gc_{NAME}", weights=tmp_path / "r20.pth")


def test_weights_that_do_not_fit_name_missing_and_unknown_keys(tmp_path: Path) -> None:
    changed = state()
    changed["layer1.0.convl.weight"] = changed.pop("layer1.0.conv1.weight")
    torch.save(changed, tmp_path / "w.pth")
    sentence = (
        r'lack layer1\.0\.conv1\.weight; they hold the unknown layer1\.0\.convl\.weight; did you mean "layer1\.0\.conv1'
    )
    with pytest.raises(UserError, match=sentence):
        create_model(NAME, weights=tmp_path / "w.pth")


def headless(name: str, head: str) -> dict[str, Tensor]:
    return {key: value for key, value in create_model(name).state_dict().items() if not key.startswith(head)}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (NAME, "linear."),
        ("resnet18", "fc."),
        ("timm/resnet18", "fc."),
        ("torchvision/mobilenet_v3_small", "classifier."),
    ],
)
def test_weights_without_a_classifier_leave_it_new_for_training_and_are_refused_for_evaluation(
    tmp_path: Path, name: str, head: str
) -> None:
    torch.save(headless(name, head), tmp_path / "features.pth")
    loaded = loaded_weights(create_model(name, num_classes=4, weights=tmp_path / "features.pth"))
    assert loaded is not None
    assert loaded.head.endswith(f"{head.rstrip('.')} not in the weights")
    with pytest.raises(UserError, match=f"has no trained classifier for {name}"):
        open_trained(name, str(tmp_path / "features.pth"))


TWO_HEADS = {
    "torchvision/googlenet": {"fc", "aux1.fc2", "aux2.fc2"},
    "torchvision/inception_v3": {"fc", "AuxLogits.fc"},
    "deit_tiny_distilled_patch16_224": {"head", "head_dist"},
}


@pytest.mark.parametrize(("name", "layers"), TWO_HEADS.items(), ids=TWO_HEADS)
def test_all_heads_of_a_network_start_anew_for_another_number_of_classes(
    tmp_path: Path, name: str, layers: set[str]
) -> None:
    before = create_model(name, num_classes=6).state_dict()
    torch.save(before, tmp_path / "six.pth")
    model = create_model(name, num_classes=4, weights=tmp_path / "six.pth")
    loaded = loaded_weights(model)
    assert loaded is not None
    assert set(loaded.new_layers) == layers
    after = model.state_dict()
    kept = [key for key in before if key.rpartition(".")[0] not in layers]
    assert all(torch.equal(before[key], after[key]) for key in kept)


def test_inception_without_its_auxiliary_head_loads_and_can_be_evaluated(tmp_path: Path) -> None:
    torch.save(headless("torchvision/inception_v3", "AuxLogits."), tmp_path / "plain.pth")
    network = open_trained("torchvision/inception_v3", str(tmp_path / "plain.pth")).trained
    assert isinstance(network, TrainedClassifier)
    assert network.num_classes == 1000
    assert network.preprocessing is not None
    assert network.preprocessing.image_size == 299


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm itself, in the reference
def test_position_embeddings_of_timm_are_resized_as_timm_resizes_them(tmp_path: Path) -> None:
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        large = timm.create_model(name, num_classes=3)
        torch.save(large.state_dict(), tmp_path / "large.pth")
        overlay = {"state_dict": large.state_dict(), "num_classes": 3}
        options = {"num_classes": 3, "img_size": 96, "pretrained": True, "pretrained_cfg_overlay": overlay}
        model = create_model(name, num_classes=3, image_size=96, weights=tmp_path / "large.pth").eval()
        reference = timm.create_model(name, **options).eval()
        images = torch.randn(1, 3, 96, 96)
        with torch.no_grad():
            torch.testing.assert_close(model(images), reference(images))


def test_the_position_embedding_of_torchvision_is_resized(tmp_path: Path) -> None:
    large = torchvision.models.vit_b_32(num_classes=3)
    torch.save(large.state_dict(), tmp_path / "large.pth")
    model = create_model("torchvision/vit_b_32", num_classes=3, image_size=96, weights=tmp_path / "large.pth").eval()
    assert model(torch.randn(1, 3, 96, 96)).shape == (1, 3)
    assert model.get_parameter("encoder.pos_embedding").shape == (1, 10, 768)


def test_a_network_built_for_another_size_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    from gcnet.models.load import load_model
    from gcnet.models.model_file import save_model

    model = create_model("vit_tiny_patch16_224", num_classes=3, image_size=64).eval()
    save_model(model, tmp_path / "vit.safetensors")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "vit.safetensors")(images), model(images))


def test_a_named_version_is_read_from_the_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    published = torchvision.models.resnet50().state_dict()
    torch.save(published, tmp_path / "checkpoints" / "resnet50-0676ba61.pth")
    model = create_model("resnet50", weights="imagenet1k_v1")
    assert torch.equal(model.get_parameter("fc.weight"), published["fc.weight"])
    assert str(loaded_weights(model)).startswith("320 tensors from torchvision resnet50 IMAGENET1K_V1")


def test_weights_of_timm_are_read_from_the_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = timm.create_model("vit_tiny_patch16_224")
    torch.save(reference.state_dict(), tmp_path / "cached.bin")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "cached.bin"))
    model = create_model("vit_tiny_patch16_224", weights="pretrained")
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert "timm vit_tiny_patch16_224.augreg_in21k_ft_in1k" in str(loaded_weights(model))


def test_published_weights_are_not_downloaded_without_the_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    for arguments, place in (
        ({"name": "resnet18", "weights": "pretrained"}, tmp_path / "checkpoints" / "resnet18-f37072fd.pth"),
        (
            {"name": "mask_rcnn_resnet50", "backbone_weights": "IMAGENET1K_V1"},
            tmp_path / "checkpoints" / "resnet50-0676ba61.pth",
        ),
        (
            {"name": "vit_tiny_patch16_224", "weights": "pretrained"},
            tmp_path / "hub" / "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        ),
    ):
        with pytest.raises(UserError, match="is not in the cache, .*: add `download` to download it, or give") as error:
            create_model(**arguments)
        assert f"not in the cache, {place}: " in str(error.value)


def test_without_an_answer_published_weights_fail_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading
    import time

    answered = threading.Event()
    timeouts: list[float] = []

    def unanswered(*_: object, timeout: float, **__: object) -> None:
        timeouts.append(timeout)
        answered.wait(60)
        raise TimeoutError

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("socket.create_connection", unanswered)
    from gcnet.models.pretrained import find_pretrained, read_pretrained

    published = find_pretrained("resnet18", "pretrained")
    assert published is not None
    began, before = time.monotonic(), set(threading.enumerate())
    with pytest.raises(UserError, match="resnet18 IMAGENET1K_V1 is not in the cache, and .* cannot be reached"):
        read_pretrained(published, "weights", download=True)
    assert time.monotonic() - began < 30  # it did not wait for the end of the attempt, also on a busy machine
    answered.set()
    for attempt in set(threading.enumerate()) - before:
        attempt.join()
    assert len(timeouts) == 1 and timeouts[0] < 1


def test_networks_are_unchanged_if_weights_do_not_fit(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth")
    model: nn.Module = create_model(NAME)
    from gcnet.models.weights import load_weights

    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="lack conv1.weight.*; they hold the unknown a"):
        load_weights(model, tmp_path / "w.pth", NAME, set(before))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
