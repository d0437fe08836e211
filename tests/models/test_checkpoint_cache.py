"""Published checkpoints by name: downloaded once, converted, cached, and used wherever a model or weights are given."""

import io
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import gcnet
from file_server import FileServer, published, served
from gcnet.checkpoints import published_files as catalog
from gcnet.checkpoints.network import NetworkDescription
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.cli import main
from gcnet.errors import Failure, UserError
from gcnet.models import conversion
from gcnet.models.card import card_of
from gcnet.models.conversion import build_described, convert_weights

_SMALL = {"fpn_channels": 32, "head_width": 16}
NAME = "mmdet/faster_rcnn_r18_test"


@pytest.fixture(scope="module")
def content() -> bytes:
    """A small checkpoint in the layout of mmdet."""
    network = NetworkDescription("faster_rcnn_resnet18", 3, detector={"conventions": "mmdet", **_SMALL})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tensors = NETWORK_SOURCES["mmdet"].to_library(build_described(network).state_dict(), network)
    file = io.BytesIO()
    torch.save({"state_dict": tensors}, file)
    return file.getvalue()


@pytest.fixture
def server(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FileServer]:
    """A server of one published checkpoint, and an empty cache."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(content) as running:
        file = replace(published(running.url, content), name=NAME, parameters=3, scores=("12.3", "4.5"))
        known = catalog.published_files()
        for module in (catalog, conversion):
            monkeypatch.setattr(module, "published_files", lambda: (*known, file))
        yield running


@pytest.mark.usefixtures("server")
def test_a_published_checkpoint_is_the_converted_network_with_its_scores(content: bytes) -> None:
    model = gcnet.load_model(NAME, download=True)
    expected = convert_weights(torch.load(io.BytesIO(content), weights_only=True)).model.state_dict()
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    provenance = card_of(model).provenance or {}
    assert provenance["name"] == NAME and provenance["source"] == "mmdet"
    assert provenance["scores"] == {"box AP": 12.3, "mask AP": 4.5}
    assert provenance["sha256"].startswith(provenance["file"][-12:-4])


def test_it_is_downloaded_and_converted_once(server: FileServer, tmp_path: Path) -> None:
    gcnet.load_model(NAME, download=True)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert sorted(Path(name).suffix for name in files) == [".lock", ".pth", ".safetensors"]
    gcnet.load_model(NAME)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files
    assert server.requests == 1


@pytest.mark.usefixtures("server")
def test_create_model_takes_it_as_weights_and_as_those_of_a_backbone() -> None:
    whole = gcnet.create_model("faster_rcnn_resnet18", num_classes=3, weights=NAME, download=True)
    other = gcnet.create_model("faster_rcnn_resnet18", num_classes=7, backbone_weights=NAME)
    loaded = gcnet.load_model(NAME).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in whole.state_dict().items())
    for name, tensor in other.state_dict().items():
        if name.startswith("backbone.body."):
            assert torch.equal(tensor, loaded[name]), name


def test_nothing_is_downloaded_without_the_flag(server: FileServer, tmp_path: Path) -> None:
    for call in (
        lambda: gcnet.load_model(NAME),
        lambda: gcnet.create_model("faster_rcnn_resnet18", weights=NAME),
        lambda: gcnet.create_model("faster_rcnn_resnet18", backbone_weights=NAME),
        lambda: gcnet.evaluate(NAME, data="scenes"),
        lambda: gcnet.predict("no.png", model=NAME),
    ):
        with pytest.raises(UserError):
            call()
    assert server.requests == 0 and not (tmp_path / "cache").exists()


def test_a_file_put_into_the_cache_is_used(server: FileServer, content: bytes) -> None:
    with pytest.raises(UserError, match="save http.* as ") as error:
        gcnet.load_model(NAME)
    path = Path(str(error.value).rpartition(" as ")[2])
    path.parent.mkdir()
    path.write_bytes(content)
    gcnet.load_model(NAME)
    assert server.requests == 0


@pytest.mark.usefixtures("server")
def test_a_damaged_file_in_the_cache_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / catalog.find_published_file(NAME).file_name
    path.write_bytes(content[:-1])
    with pytest.raises(Failure, match="its SHA-256 begins with"):
        gcnet.load_model(NAME, download=True)


def test_a_damaged_model_file_in_the_cache_is_converted_again(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = gcnet.load_model(NAME, download=True).state_dict()
    (converted,) = (tmp_path / "cache").glob("*.safetensors")
    data = bytearray(converted.read_bytes())
    data[-1] ^= 1
    for damaged in (bytes(data), b""):
        converted.write_bytes(damaged)
        state = gcnet.load_model(NAME).state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert f"{converted} is damaged, and is converted again" in caplog.text
        caplog.clear()
    assert server.requests == 1


@pytest.mark.usefixtures("server")
def test_a_misspelled_name_gets_the_nearest_one() -> None:
    for call in (
        lambda: gcnet.load_model("mmdet/faster_rcnn_r18_tost"),
        lambda: gcnet.create_model("faster_rcnn_resnet18", weights="mmdet/faster_rcnn_r18_tost"),
        lambda: gcnet.evaluate("mmdet/faster_rcnn_r18_tost"),
        lambda: gcnet.analyze("mmdet/faster_rcnn_r18_tost", "no.png"),
    ):
        with pytest.raises(UserError, match=f'did you mean "{NAME}"'):
            call()


@pytest.mark.slow
def test_commands_take_the_name_and_download_it(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate = ["evaluate", NAME, "--data", "scenes", "--limit", "2"]
    assert main(evaluate) == 2
    assert "add --download to download it, or save http" in capsys.readouterr().err
    assert server.requests == 0
    assert main([*evaluate, "--download"]) == 0
    assert main(evaluate) == 0
    assert server.requests == 1
    assert "objects  12 of 3 classes" in capsys.readouterr().out
    train = ["train", "--data", "scenes", "--steps", "1", "--limit-train", "2", "--limit-val", "2", "--batch-size", "2"]
    network = ["--model", "faster_rcnn_resnet18", "--min-size", "64", "--max-size", "64", "--output", "run"]
    assert main([*train, *network, "--backbone-weights", NAME]) == 0
    assert "network-" in capsys.readouterr().out


@pytest.mark.slow
def test_a_published_classifier_predicts_as_in_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    theirs = timm.create_model("gcresnext26ts").eval()
    theirs.state_dict()["head.fc.weight"].mul_(1e4)  # or all classes would be equally probable
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(file.getvalue()) as running:
        entry = published(running.url, file.getvalue())
        known = replace(entry, name="timm/test.tag", dataset="ImageNet validation set")
        for module in (catalog, conversion):
            monkeypatch.setattr(module, "published_files", lambda: (known,))
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 401, 3), np.uint8)).save(tmp_path / "photo.png")
        result = gcnet.predict(tmp_path / "photo.png", model="timm/test.tag", download=True, topk=1000)
    config = timm.data.resolve_data_config(pretrained_cfg=theirs.pretrained_cfg, use_test_size=True)
    image = timm.data.create_transform(**config)(Image.open(tmp_path / "photo.png"))
    with torch.no_grad():
        expected = theirs(image[None]).softmax(1)[0]
    names = timm.data.ImageNetInfo().label_descriptions()
    found = result.images[0].classes
    ranked = expected.argsort(descending=True)
    assert max(abs(float(expected[label]) - one[1]) for label, one in zip(ranked, found, strict=True)) < 1e-5
    assert found[0][0] == names[int(ranked[0])].split(",")[0]
    assert expected.std() > 1e-4


@pytest.mark.slow
def test_convert_takes_the_name(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["convert", NAME, "--output", str(tmp_path / "model.safetensors")]
    assert main(convert) == 2
    assert "add --download to download it" in capsys.readouterr().err
    assert main([*convert, "--download"]) == 0
    assert server.requests == 1
    own, cached = gcnet.load_model(tmp_path / "model.safetensors"), gcnet.load_model(NAME)
    assert card_of(own) == card_of(cached)


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "gc_resnet50", "--data", "photos", "--download"),
        ("predict", "photo.png", "--model", "model.safetensors", "--download"),
        ("analyze", "model.safetensors", "photo.png", "--download"),
        ("train", "--data", "scenes", "--download"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_download_without_effect_is_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(arguments)) == 2
    assert "a published checkpoint, which gcnet models --published lists" in capsys.readouterr().err
