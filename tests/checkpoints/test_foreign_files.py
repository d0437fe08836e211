"""Weight files of other origin: read safely, or refused in a sentence."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gcnet.checkpoints.foreign_files import read_state_dict, read_weight_file
from gcnet.checkpoints.weight_file import unwrapped_weights
from gcnet.errors import UserError
from gcnet.tensor_files import save_tensors


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_tensors_are_read_whatever_wraps_them(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(2, 3), "b": torch.ones(1)}
    parallel = {f"module.{name}": value for name, value in tensors.items()}
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"state_dict": parallel, "best_prec1": 91.7}, tmp_path / "wrapped.th")
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "model.pt")
    save_file(tensors, tmp_path / "plain.safetensors")
    for file in tmp_path.iterdir():
        found = read_state_dict(file)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_code_from_a_file_runs(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "created"
    torch.save({"a": torch.ones(1), "x": Attack(target)}, tmp_path / "attack.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Attack(target), protocol=protocol))
    for name in ("attack.pth", "raw.pth"):
        with pytest.raises(UserError, match=name):
            read_state_dict(tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x02}q\x00"], ids=repr)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match="weights"):
        read_state_dict(file)


def test_a_flipped_bit_in_a_file_of_ours_is_refused_and_the_whole_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ours.safetensors"
    save_tensors(file, {"a": torch.ones(5)}, {"kind": "model"})
    assert torch.equal(read_state_dict(file)["a"], torch.ones(5))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(file)


def test_content_other_than_tensors_by_name_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    for name in ("list.pth", "numbers.pth", "missing.pth"):
        with pytest.raises(UserError, match=name):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("length", [0x0480, 0x8B1F, 0x4B50], ids=["pickle", "gzip", "zip"])
def test_a_safetensors_header_whose_length_looks_like_another_format_is_read(tmp_path: Path, length: int) -> None:
    save_file({"weight": torch.arange(6.0)}, tmp_path / "plain.safetensors")
    content = (tmp_path / "plain.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].ljust(length)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + header + content[8 + size :])
    assert torch.equal(read_state_dict(file)["weight"], torch.arange(6.0))


def test_a_checkpoint_of_a_run_of_mmengine_is_read_with_its_metadata() -> None:
    file = Path(__file__).parent / "mmengine_epoch_1.pth"  # written by mmengine's Runner with EMAHook
    weights = read_weight_file(file)
    assert weights.tensors["linear.weight"].shape == (2, 3)
    assert weights.texts("meta", "dataset_meta", "classes") == ("cat", "dog")
    assert "EMAHook" in weights.text("meta", "cfg")


def test_copies_that_the_hook_of_mmcv_keeps_beside_the_weights_are_skipped() -> None:
    weights = {"conv.weight": torch.ones(2), "ema_conv_weight": torch.zeros(2), "ema_head": torch.zeros(3)}
    for ema in (False, True):  # mmcv saves the moving average as the weights
        read = unwrapped_weights({"state_dict": weights, "meta": {}}, "file", ema=ema)
        assert read.tensors.keys() == {"conv.weight", "ema_head"}
        assert any("moving average" in note for note in read.notes)


def test_mmengine_saves_the_moving_average_as_the_weights() -> None:
    file = Path(__file__).parent / "mmengine_epoch_1.pth"
    average = read_weight_file(file, ema=True)
    # The scale of the norm begins at 1, learns at 0.1 a step, and its average of two steps is behind it.
    assert average.tensors["norm.weight"][0].item() == pytest.approx(0.899, abs=1e-3)
    assert average.tensors.keys() == read_weight_file(file).tensors.keys()
    assert any("moving average" in note for note in average.notes)
