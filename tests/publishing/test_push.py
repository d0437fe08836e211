"""Models are pushed to a Hub on this machine, and loaded from it again."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants

import gcnet
from gcnet.cli import main
from gcnet.errors import Failure, UserError
from hub_server import HubServer, hub_served

# Of httpx2, which huggingface_hub uploads with.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with hub_served() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    model = gcnet.create_model("gc_cifar_resnet20", num_classes=3)
    gcnet.save_model(model, path, preprocessing={"image_size": 32}, class_names=CLASSES)
    return path


def test_a_pushed_model_gives_equal_results_to_the_bit(hub: HubServer, file: Path) -> None:
    pushed = gcnet.push(file, "user/net", license="apache-2.0")
    assert pushed.name == "hf://user/net"
    stored = hub.repositories["user/net"].commits[pushed.commit]
    assert set(stored) - {".gitattributes"} == {"model.safetensors", "README.md", "attention.png"}
    assert stored["model.safetensors"] == file.read_bytes()
    images = list(np.random.default_rng(3).integers(0, 256, (3, 37, 41, 3), dtype=np.uint8))
    here, there = gcnet.load(file, device="cpu"), gcnet.load(pushed.name, download=True, device="cpu")
    assert there.names == CLASSES
    assert here(images).to_dict() == there(images).to_dict()
    for name, value in here.model.state_dict().items():
        assert torch.equal(value, there.model.state_dict()[name])
    card = ModelCard(stored["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "gcnet",
        "image-classification",
        "apache-2.0",
    )
    assert 'gcnet.load("hf://user/net", download=True)' in card.text


@pytest.mark.usefixtures("hub")
def test_networks_and_predictors_are_pushed_as_well(file: Path) -> None:
    predictor = gcnet.load(file, device="cpu")
    for number, model in enumerate((predictor, gcnet.load_model(file))):
        pushed = gcnet.push(model, f"user/net-{number}")
        loaded = gcnet.load(pushed.name, download=True, device="cpu")
        assert loaded.names == CLASSES
        expected = predictor.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())


def test_an_existing_readme_stays_unless_it_is_to_be_overwritten(hub: HubServer, file: Path) -> None:
    hub.add("user/net", {"README.md": b"written by hand"})
    pushed = gcnet.push(file, "user/net")
    assert "README.md" not in pushed.files
    assert hub.repositories["user/net"].commits[pushed.commit]["README.md"] == b"written by hand"
    pushed = gcnet.push(file, "user/net", overwrite=True)
    assert b"# net" in hub.repositories["user/net"].commits[pushed.commit]["README.md"]


def test_the_command_pushes_a_private_repository(
    hub: HubServer, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(file), "user/net", "--private"]) == 0
    repository = hub.repositories["user/net"]
    assert repository.private
    assert f"hf://user/net, commit {list(repository.commits)[-1]}: {hub.url}/user/net" in capsys.readouterr().out


def test_nothing_is_created_without_a_token_or_for_a_model_that_others_cannot_use(
    hub: HubServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="others cannot rebuild"):
        gcnet.push(torch.nn.Linear(3, 3), "user/net")
    with pytest.raises(UserError, match="no file|no model file"):
        gcnet.push(tmp_path / "missing.safetensors", "user/net")
    with pytest.raises(UserError, match="`repository` must be user/name, found net"):
        gcnet.push(file, "net")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token: log in with `hf auth login`, or set HF_TOKEN"):
        gcnet.push(file, "user/net")
    assert hub.requests == []


def test_a_refused_token_and_an_unreachable_hub_are_one_sentence(
    hub: HubServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "another"
    with pytest.raises(UserError, match=r"cannot push user/net: the Hub denies access \(401\)"):
        gcnet.push(file, "user/net")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Failure, match="cannot be reached"):
        gcnet.push(file, "user/net")
    assert hub.repositories == {}


def test_metrics_of_an_evaluation_are_in_the_index_of_the_hub(hub: HubServer, file: Path, tmp_path: Path) -> None:
    results = {"top1_fraction": 0.75, "images": 40, "data": "/home/someone/photos", "classes": list(CLASSES)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    pushed = gcnet.push(file, "user/net", results=tmp_path / "results.json")
    text = hub.repositories["user/net"].commits[pushed.commit]["README.md"].decode()
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.75, "photos")
    assert "/home/someone" not in text
