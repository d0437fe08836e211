"""Files given as weights or models: whatever is in them, one sentence, no code runs and little memory is taken."""

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.errors import UserError
from gcnet.insertion import insert, inserted
from gcnet.models.block_file import load_context, save_context
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.tensor_files import load_tensors, save_tensors

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "fc.bias": torch.ones(5)}


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def torch_bytes(content: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def zip_bytes(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def array_bytes() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def header(value: object, tail: bytes = b"\0" * 32) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + tail


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


MISTAKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"hello\nthere", 'is a text file and not weights; it begins with "hello"'),
    "escape codes": (b"\x1b[31mred\n", r"is not a weight file|is a text file"),
    "page": (b"\n <!DOCTYPE html><html><body>404", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "is a Git LFS pointer"),
    "json": (b'{"a": 1}', "is a text file"),
    "numpy": (array_bytes(), "is a NumPy array"),
    "npz": (zip_bytes({"a.npy": array_bytes()}), r"is a NumPy archive \(\.npz\)"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is a gzip archive: unpack it first"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a PNG image"),
    "zip": (zip_bytes({"readme.txt": b"hi"}), "is a zip archive without weights of torch.save"),
    "torchscript": (zip_bytes({"m/constants.pkl": b"", "m/data.pkl": b""}), "is a TorchScript archive"),
    "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x032.1", "is an ONNX file, for other runtimes: give the model file"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="graph">', "is an OpenVINO file, for other runtimes"),
    "torch.export": (zip_bytes({"archive/archive_format": b"pt2"}), r"is a file of torch\.export, for other runtimes"),
    "bomb": (
        zip_bytes({"m/data.pkl": b"", "m/data/0": bytes(20_000_000)}, zipfile.ZIP_DEFLATED),
        "is refused: it has .* and claims to hold 20,000,000",
    ),
    "noise": (bytes(range(255, 0, -1)), "its format is neither that of safetensors nor of torch.save"),
    "long header": (b"\xff" * 7 + b"\0{}", "is a damaged or truncated safetensors file"),
    "a tensor": (torch_bytes(torch.ones(3)), r"holds one tensor of shape \(3,\)"),
    "a list": (torch_bytes([torch.ones(3)]), "holds a list"),
    "numbers": (torch_bytes({"epoch": 3, "loss": 0.5}), 'holds something else: "epoch", "loss"'),
    "nothing": (torch_bytes({}), "holds something else: nothing"),
    "expanded": (
        torch_bytes({"fc.weight": torch.zeros(1).expand(2_000_000_000, 1)}),
        "claims shape .* but the file holds 1 of its",
    ),
    "meta": (torch_bytes({"fc.weight": torch.empty(10**9, device="meta")}), "is not a plain tensor"),
    "sparse": (torch_bytes({"a": torch.eye(3).to_sparse()}), "is not a plain tensor"),
    "late protocol": (pickle.dumps(STATE, protocol=4), r"is a pickle with more than torch\.load reads"),
    "overlap": (header({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}), "is a damaged safetensors file"),
    "beyond": (header({"a": entry([99], [0, 396])}), "is a damaged safetensors file"),
    "shape": (header({"a": entry([10**12, 10**12], [0, 8])}), "is a damaged safetensors file"),
    "negative": (header({"a": entry([-1], [0, 8])}), "is a damaged safetensors file"),
    "dtype": (header({"a": entry([2], [0, 8], "F31")}), "is a damaged safetensors file"),
    "no json": (header(b"{not json at all}"), "is a damaged safetensors file"),
    "list header": (header({"a": [1, 2]}), "is a damaged safetensors file"),
}


@pytest.mark.parametrize(("content", "sentence"), MISTAKEN.values(), ids=MISTAKEN)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_than_weights_are_named_by_their_kind(
    tmp_path: Path, content: bytes, sentence: str, suffix: str
) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_state_dict(file)
    assert file.name in str(caught.value)
    with pytest.raises(UserError):
        load_model(file)
    with pytest.raises(UserError):
        load_context(nn.Linear(1, 1), file)


def test_folders_pipes_and_missing_or_impossible_names_are_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, sentence in {
        "pipe": "is a pipe, socket or device",
        "folder": "is a folder",
        "missing.pth": "there is no weights file",
        "nul\0name": "cannot read",
        "x" * 300: "cannot read",
    }.items():
        with pytest.raises(UserError, match=sentence):
            read_state_dict(tmp_path / name)
        with pytest.raises(UserError):
            load_model(tmp_path / name)
        with pytest.raises(UserError):
            load_tensors(tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_code_from_a_file_runs_whatever_the_format(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "created"
    files = {
        "raw.pth": pickle.dumps({"a": Attack(target)}, protocol=protocol),
        "zip.pth": torch_bytes({"a": torch.ones(1), "x": Attack(target)}),
        "legacy.pth": torch_bytes({"a": torch.ones(1), "x": Attack(target)}, legacy=True),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_state_dict(tmp_path / name)
    assert not target.exists()


def test_a_pickled_network_is_refused_with_the_name_of_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"holds objects of torch\.nn\.modules\.linear\.Linear and not only tensors"):
        read_state_dict(tmp_path / "whole.pth")


SOUND: dict[str, Callable[[], bytes]] = {
    "zip": lambda: torch_bytes({"state_dict": STATE, "epoch": 3}),
    "legacy": lambda: torch_bytes(STATE, legacy=True),
    "safetensors": lambda: save(STATE, {"format": "pt"}),
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_give_tensors_or_a_sentence(tmp_path: Path, kind: str, seed: int) -> None:
    draw = random.Random(seed)
    file = tmp_path / "mutated.bin"
    refused = 0
    for _ in range(50):
        data = bytearray(SOUND[kind]())
        for _ in range(draw.choice((1, 1, 2, 8))):
            place = draw.randrange(min(len(data), draw.choice((64, 600, len(data)))))
            data[place] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
        if draw.random() < 0.3:
            data = data[: draw.randrange(len(data))]
        file.write_bytes(bytes(data))
        try:
            found = read_state_dict(file)
        except UserError as error:
            assert "mutated.bin" in str(error)
            refused += 1
        else:
            assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert refused > 5


def rewritten(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A copy with other metadata and a right checksum."""
    tensors, metadata = load_tensors(source)
    save_tensors(target, tensors, {**metadata, **changes})
    return target


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "gc.safetensors"
    save_model(create_model("gc_cifar_resnet20"), path)
    return path


DEEP: Any = {}
for _ in range(30):
    DEEP = {"a": DEEP}
ODD: list[Any] = [None, -1, 0, 1e300, True, "x", "", [], [1], [None], {}, {"a": 1}, DEEP, ["\x1b[31m"], 2**70]


@pytest.mark.parametrize(
    "name",
    ["kind", "architecture", "num_classes", "insertions", "class_names", "detector", "category_ids", "image_size"],
)
def test_odd_metadata_give_a_network_or_a_sentence(model_path: Path, tmp_path: Path, name: str) -> None:
    for number, value in enumerate(ODD):
        file = rewritten(model_path, tmp_path / f"odd{number}.safetensors", {name: value})
        try:
            load_model(file)
        except UserError as error:
            assert str(error).isprintable()


def test_odd_records_of_insertions_are_one_sentence(model_path: Path, tmp_path: Path) -> None:
    record = load_tensors(model_path)[1]["insertions"][0]
    place = record["places"][0]
    for number, change in enumerate(
        [
            {"position": "nowhere"},
            {"position": 3},
            {"block": "gcc"},
            {"block": 5},
            {"ratio": 1e-9},
            {"ratio": "x"},
            {"options": {"poling": 1}},
            {"options": None},
            {"places": [place | {"prefix": -3}]},
            {"places": [place | {"channels": 10**9}]},
            {"places": [place | {"name": "nowhere"}]},
            {"places": [place | {"dims": 7}]},
            {"places": 3},
        ]
    ):
        changed = rewritten(model_path, tmp_path / f"r{number}.safetensors", {"insertions": [record | change]})
        with pytest.raises(UserError):
            load_model(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 20_000_000},
        {"num_classes": 10**9},
        {"num_classes": 11},
        {"architecture": "resnet50"},
        {"architecture": "vit_giant_patch14_224"},
        {"architecture": "mask_rcnn_cifar_resnet20", "detector": {"fpn_channels": 10**6}, "num_classes": 3},
    ],
    ids=str,
)
def test_declared_sizes_are_compared_with_the_file_before_memory_is_taken(
    model_path: Path, tmp_path: Path, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rewritten(model_path, tmp_path / "huge.safetensors", change)
    built: list[torch.device] = []
    original = nn.Linear.__init__

    def watched(self: nn.Linear, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        built.append(self.weight.device)

    monkeypatch.setattr(nn.Linear, "__init__", watched)
    with pytest.raises(UserError, match="declares|does not hold the weights of its own"):
        load_model(file)
    assert all(device.type == "meta" for device in built)


def test_a_failed_load_model_leaves_the_network_unchanged(tmp_path: Path) -> None:
    trained = create_model("cifar_resnet20", num_classes=7)
    insert(trained, "gc")
    save_model(trained, tmp_path / "seven.safetensors")
    base = create_model("cifar_resnet20", num_classes=10)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    for _ in range(2):
        with pytest.raises(UserError, match=r"have another shape of linear\.weight"):
            load_model(tmp_path / "seven.safetensors", base)
        assert inserted(base) == ()
        after = base.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_counts_of_thop_are_neither_saved_nor_missed(tmp_path: Path) -> None:
    def profiled() -> nn.Module:
        model = create_model("gc_cifar_resnet20")
        for module in model.modules():
            module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
            module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
        return model

    model = profiled()
    save_model(model, tmp_path / "model.safetensors")
    assert not any("total_" in name for name in load_tensors(tmp_path / "model.safetensors")[0])
    load_model(tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "profiled.pth")
    create_model("gc_cifar_resnet20", weights=tmp_path / "profiled.pth")
    save_context(model, tmp_path / "blocks.safetensors")
    load_context(create_model("cifar_resnet20"), tmp_path / "blocks.safetensors")


def test_weights_given_as_a_model_suggest_the_weights_option(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    torch.save(STATE, tmp_path / "weights.pth")
    for file in tmp_path.iterdir():
        with pytest.raises(UserError, match="holds only weights, without the name of their network: pass them as"):
            load_model(file)
