"""Models on the Hugging Face Hub, on a server of this machine: names, cache, downloads and errors."""

import io
import json
import pickle
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import gcnet
from gcnet.checkpoints.hub import find_hub_model, hub_file
from gcnet.errors import Failure, UserError
from gcnet.storage import StorageError
from hub_server import HubServer, hub_served

NAME = "hf://user/scenes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_served() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    model = gcnet.create_model("gc_cifar_resnet20", num_classes=3)
    gcnet.save_model(model, path, preprocessing={"image_size": 32}, class_names=("cat", "dog", "owl"))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("hf://user/scenes", "user/scenes", "main"),
        ("hf://user/scenes-1.5@v1", "user/scenes-1.5", "v1"),
        ("hf://org_2/net@refs/pr/3", "org_2/net", "refs/pr/3"),
    ],
)
def test_a_name_has_a_repository_and_a_revision(name: str, repository: str, revision: str) -> None:
    model = find_hub_model(name)
    assert (model.repository, model.revision) == (repository, revision)


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://scenes", "hf://a/b/c", "hf://user/a b", "hf://../x", "hf://user/x@../../main", "hf://user/x@",
     "hf://user/x@/etc", "hf://user/x--y", "hf://user/x\n"],
)  # fmt: skip
def test_other_names_are_refused_without_a_request(name: str, hub: HubServer) -> None:
    with pytest.raises(UserError, match="models on the Hugging Face Hub are named hf://user/name"):
        gcnet.load(name, download=True)
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["https://huggingface.co/user/x", "https://huggingface.co/user/x/tree/main", "HF://user/x", "hf://user/x/y"]
)
def test_a_page_of_the_hub_is_answered_with_the_name_of_its_model(name: str, hub: HubServer) -> None:
    with pytest.raises(UserError, match=r"; did you mean hf://user/x\?"):
        gcnet.load(name, download=True)
    assert hub.requests == []


def test_nothing_is_downloaded_without_download_and_the_cache_is_used_afterwards(
    hub: HubServer, content: bytes
) -> None:
    commit = hub.add("user/scenes", {"model.safetensors": content})
    with pytest.raises(UserError, match=r"hf://user/scenes is not in the cache: add `download` to download it"):
        gcnet.load(NAME)
    assert hub.requests == []
    file = hub_file(NAME, download=True)
    assert file.read_bytes() == content
    assert file.parent.name == commit
    count = len(hub.requests)
    assert hub_file(NAME, download=False) == hub_file(f"{NAME}@{commit}", download=True) == file
    assert len(hub.requests) == count


def test_download_gets_the_newest_commit_and_a_commit_stays_what_it_is(hub: HubServer, content: bytes) -> None:
    first = hub.add("user/scenes", {"model.safetensors": content})
    hub_file(NAME, download=True)
    second = hub.add("user/scenes", {"model.safetensors": content, "README.md": b"new"})
    assert hub_file(NAME, download=False).parent.name == first
    assert hub_file(NAME, download=True).parent.name == second
    assert hub_file(f"{NAME}@{first}", download=True).parent.name == first


def test_the_same_name_works_wherever_models_and_weights_are_named(
    hub: HubServer, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.add("user/scenes", {"model.safetensors": content})
    caplog.set_level("INFO")
    predictor = gcnet.load(NAME, download=True, device="cpu")
    assert predictor.names == ("cat", "dog", "owl")
    assert f"commit {commit}" in caplog.text
    (tmp_path / "model.safetensors").write_bytes(content)
    expected = gcnet.load_model(tmp_path / "model.safetensors").state_dict()
    loaded = [
        predictor.model,
        gcnet.load_model(NAME),
        gcnet.create_model("gc_cifar_resnet20", num_classes=3, weights=NAME),
    ]
    for model in loaded:
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    count = sum(parameter.numel() for parameter in predictor.model.parameters())
    assert gcnet.cost(NAME).reports[0].total.values["parameters"] == count
    images = torch.rand(3, 32, 32)
    assert predictor(images).to_dict() == gcnet.load(tmp_path / "model.safetensors", device="cpu")(images).to_dict()


@pytest.mark.slow
def test_a_run_and_an_evaluation_record_the_commit(hub: HubServer, content: bytes, tmp_path: Path) -> None:
    commit = hub.add("user/scenes", {"model.safetensors": content})
    gcnet.train(
        model="gc_cifar_resnet20",
        weights=NAME,
        download=True,
        data="scenes",
        limit_train=8,
        limit_val=8,
        steps=1,
        batch_size=8,
        plots=False,
        output=tmp_path / "run",
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["network"]["weights"] == f"{NAME}@{commit}"
    shutil.copy(tmp_path / "run" / "weights" / "best.safetensors", tmp_path / "model.safetensors")
    trained = hub.add("user/trained", {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    result = gcnet.evaluate("hf://user/trained", data="scenes", limit=4, download=True)
    assert result.to_dict()["model"] == f"hf://user/trained@{trained}"


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def test_nothing_in_a_repository_is_executed_and_only_the_model_file_is_fetched(
    hub: HubServer, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = b"from pathlib import Path\nPath('executed').touch()\n"
    stream = io.BytesIO()
    torch.save({"state_dict": Payload()}, stream)
    others = {
        "config.json": b'{"auto_map": {"AutoModel": "modeling.Model"}}',
        "modeling.py": code,
        "hubconf.py": code,
        "README.md": b"---\n!!python/object/apply:os.system ['touch executed']\n---\n",
        "pytorch_model.bin": pickle.dumps(Payload()),
        "model.pt": stream.getvalue(),
    }
    hub.add("user/scenes", {"model.safetensors": content, **others})
    gcnet.load(NAME, download=True, device="cpu")
    assert hub.fetched() == ["model.safetensors"]
    for disguised in (pickle.dumps(Payload()), stream.getvalue()):
        hub.add("user/scenes", {"model.safetensors": disguised})
        with pytest.raises(UserError):
            gcnet.load(NAME, download=True, device="cpu")
    assert not Path("executed").exists()


def test_a_safetensors_file_of_another_library_and_a_damaged_one_are_refused(hub: HubServer, content: bytes) -> None:
    from safetensors.torch import save

    hub.add("user/other", {"model.safetensors": save({"weight": torch.ones(3)})})
    with pytest.raises(UserError, match="holds only weights"):
        gcnet.load("hf://user/other", download=True)
    hub.add("user/damaged", {"model.safetensors": content[:-1] + bytes([content[-1] ^ 1])})
    with pytest.raises(StorageError, match="checksum"):
        gcnet.load("hf://user/damaged", download=True)


def test_missing_private_and_empty_repositories_are_explained(
    hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("user/secret", {"model.safetensors": content}, private=True)
    hub.add("user/scenes", {"README.md": b"nothing else"})
    for name in ("hf://user/secret", "hf://user/missing"):
        with pytest.raises(UserError, match=rf"no repository {name}, or it is private: log in with `hf auth login`"):
            gcnet.load(name, download=True)
    with pytest.raises(UserError, match="hf://user/scenes has no model.safetensors"):
        gcnet.load(NAME, download=True)
    with pytest.raises(UserError, match="hf://user/scenes@v2 does not exist"):
        gcnet.load(f"{NAME}@v2", download=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert gcnet.load("hf://user/secret", download=True).names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("status", "sentence"), [(403, "denies access"), (500, "the Hub answers 500"), (418, "answers 418")]
)
def test_other_answers_are_reported_at_once(
    status: int, sentence: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = status
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(UserError, match=sentence):
        gcnet.load(NAME, download=True)
    assert (len(hub.requests), waits) == (1, [])


def test_an_unreachable_hub_is_reported_at_once_and_the_cache_is_used_where_it_can(
    hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("user/scenes", {"model.safetensors": content})
    file = hub_file(NAME, download=True)
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(Failure, match="cannot be reached"):
            gcnet.load("hf://user/other", download=True)
        assert waits == []
        assert hub_file(NAME, download=True) == file
    assert "cannot be reached" in caplog.text


def test_offline_mode_sends_no_request(hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/scenes", {"model.safetensors": content})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Failure, match="HF_HUB_OFFLINE is set"):
        gcnet.load(NAME, download=True)
    assert hub.requests == []


def test_a_file_that_the_disk_cannot_hold_is_refused_before_its_download(hub: HubServer, content: bytes) -> None:
    hub.add("user/scenes", {"model.safetensors": content})
    hub.declared = 2**32 + 1
    with pytest.raises(Failure, match="the limit is 4,294,967,296"):
        gcnet.load(NAME, download=True)
    assert hub.fetched() == []


@pytest.mark.slow
def test_an_interrupted_download_is_one_sentence_and_leaves_no_model(
    hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.add("user/scenes", {"model.safetensors": content})
    hub.sent_bytes = 0
    with pytest.raises(Failure, match=r"was interrupted: download hf://user/scenes again"):
        gcnet.load(NAME, download=True)
    with pytest.raises(UserError, match="not in the cache"):
        gcnet.load(NAME)
    hub.sent_bytes = None
    assert hub_file(NAME, download=True).read_bytes() == content
