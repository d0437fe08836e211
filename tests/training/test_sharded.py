"""Networks whose weights are sharded over processes, against the same networks with DistributedDataParallel."""

import json
import shutil
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.models.resnet import BasicBlock, Bottleneck

import gcnet
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import read_model_file
from gcnet.training.checkpoint import load_state
from gcnet.training.pace import SPEED_KEYS
from gcnet.training.run_folder import RunFolder
from gcnet.training.settings import TrainSettings, override
from gcnet.training.sharded_network import shard, sharded_units, without_weights
from training import sharded
from training.photos import call_as_many, call_as_two, exit_codes, run_alone, settings_for, write_photos

PATIENCE = 240


def by_many(world, folder, work, *arguments):
    """What each process wrote, by rank."""
    assert exit_codes(call_as_many(world, work, folder, *arguments), PATIENCE) == [0] * world
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return by_many(2, tmp_path_factory.mktemp("towers"), sharded.train_towers)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sharded.RECIPES)
def test_a_sharded_network_trains_as_a_whole_one(towers, recipe):
    for found in (tower[recipe] for tower in towers):
        ours, whole = found["losses"]
        assert ours == pytest.approx(whole, rel=1e-5)
        assert found["difference"] < 1e-9
        assert found["moved"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sharded.RECIPES)
def test_each_process_keeps_half_of_weights_average_and_optimizer_state(towers, recipe):
    one, other = (tower[recipe] for tower in towers)
    for kind in {"weights", "optimizer", "average"} & one.keys():
        assert one[kind] + other[kind] == 1
        assert one[kind] == pytest.approx(0.5, abs=0.05)


def change(folder):
    shard = min(folder.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


DAMAGE = {
    "notes of the system": lambda folder: (folder / ".DS_Store").touch(),
    "another shard": lambda folder: shutil.copy(min(folder.iterdir()), folder / "._shard.safetensors"),
    "a changed shard": change,
    "a missing shard": lambda folder: min(folder.iterdir()).unlink(),
    "no shards": shutil.rmtree,
}


@pytest.mark.slow
def test_a_checkpoint_survives_a_full_disk_and_loads_to_the_same_bits_unless_damaged(tmp_path):
    (saved, full), (_, failed) = by_many(2, tmp_path, sharded.save_tower)  # the first process' batch-norm statistics
    assert full == failed == f"rank 1 failed at {tmp_path / 'checkpoint-4'}: No space left on device"
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    for name, damage in DAMAGE.items():
        shutil.copytree(tmp_path / "checkpoint-3", tmp_path / name / "checkpoint-3")
        shutil.copy(tmp_path / "checkpoint.safetensors", tmp_path / name)
        damage(tmp_path / name / "checkpoint-3")
    first = "shard-00001-model-00001-of-00001.safetensors"
    folders = {name: tmp_path / name / "checkpoint-3" for name in DAMAGE}
    expected = [
        saved,
        f"{folders['another shard']} has the file ._shard.safetensors, which is not of this checkpoint",
        f"{folders['a changed shard']} is damaged: {first} is not the file that was saved",
        f"cannot read {folders['a missing shard'] / first}: No such file or directory",
        f"cannot read {folders['no shards'] / first}: No such file or directory",
    ]
    assert by_many(3, tmp_path, sharded.load_towers, list(DAMAGE)) == [expected] * 3


@pytest.mark.slow
def test_a_network_with_shared_parameters_and_an_output_of_its_own_is_trained_saved_and_loaded(tmp_path):
    for saved, loaded, difference in by_many(2, tmp_path, sharded.save_tied):
        assert loaded == saved
        assert difference < 1e-9


@pytest.mark.slow
def test_processes_without_a_common_disk_are_one_sentence(tmp_path):
    for rank, (sentence, files) in enumerate(by_many(2, tmp_path, sharded.save_apart)):
        place = tmp_path / f"disk of {rank}" / "checkpoint-0"
        assert sentence == (
            f"rank 1 does not see {place}, which rank 0 has made: with `shard_model`, the run folder must be on a disk "
            "that all processes share"
        )
        assert files == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A classifier trained whole, sharded, and sharded with an interruption while a checkpoint was written."""
    root = tmp_path_factory.mktemp("runs")
    photos = write_photos(root / "photos", size=8)
    named = {
        "model": "gc_cifar_resnet20",
        "image_size": 8,
        "mixup": 0.0,
        "cutmix": 0.0,
        "epochs": 1.2,
        "ema_decay": 0.9,
    }
    settings = {
        name: settings_for(photos, root / name, shard_model=name != "whole", **named)
        for name in ("whole", "sharded", "killed")
    }
    for name in ("whole", "sharded"):
        assert exit_codes(call_as_two(run_alone, settings[name], None), PATIENCE) == [0, 0]
    assert exit_codes(call_as_two(sharded.die_while_saving, settings["killed"], 4), PATIENCE) == [9, 9]
    folder = RunFolder(root / "killed")
    assert (root / "killed" / "checkpoint-4").is_dir()
    assert load_state(folder.checkpoint)["trainer"]["step"] == 2
    assert exit_codes(call_as_two(run_alone, settings["killed"], None), PATIENCE) == [0, 0]
    return root


@pytest.mark.slow
def test_a_sharded_classifier_has_the_numbers_and_weights_of_a_whole_one(runs):
    whole, found = (RunFolder(runs / name) for name in ("whole", "sharded"))
    for row, twin in zip(whole.rows(), found.rows(), strict=True):
        assert row.keys() == twin.keys()
        for name in row.keys() - {"seconds", "kind", *SPEED_KEYS}:
            assert twin[name] == pytest.approx(row[name], rel=1e-3, abs=1e-3), (name, row["step"])
    for expected, sharded_file in ((whole.best, found.best), (whole.last, found.last)):
        weights, card = read_model_file(expected)
        tensors, sharded_card = read_model_file(sharded_file)
        assert card == sharded_card
        torch.testing.assert_close(tensors, weights, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_saved_resumes_to_the_same_bits(runs):
    whole, resumed = (RunFolder(runs / name) for name in ("sharded", "killed"))
    assert resumed.last.read_bytes() == whole.last.read_bytes()
    assert resumed.best.read_bytes() == whole.best.read_bytes()
    without_times = [
        [{name: value for name, value in row.items() if name not in {"seconds", *SPEED_KEYS}} for row in folder.rows()]
        for folder in (whole, resumed)
    ]
    assert without_times[0] == without_times[1]
    assert [path.name for path in resumed.path.glob("checkpoint-*")] == ["checkpoint-6"]


@pytest.mark.slow
def test_the_model_file_of_a_sharded_run_predicts(runs):
    predictions = gcnet.load(runs / "sharded")(runs / "photos" / "val" / "blue" / "0.png")
    assert predictions


@pytest.mark.slow
def test_a_sharded_detector_trains_as_a_whole_one(tmp_path):
    small = {"model": "mask_rcnn_gc_scenes_resnet", "data": "scenes", "limit_train": 12, "limit_val": 5}
    short = {"steps": 3, "batch_size": 4, "rois_per_image": 32, "plots": False, "log_every": 1, "optimizer": "sgd"}
    settings = override(TrainSettings(), **small, **short, evaluate_every=10.0)
    for name in ("whole", "sharded"):
        chosen = override(settings, output=str(tmp_path / name), shard_model=name == "sharded")
        assert exit_codes(call_as_two(run_alone, chosen, None), PATIENCE) == [0, 0]
    whole, found = (RunFolder(tmp_path / name) for name in ("whole", "sharded"))
    for row, twin in zip(whole.rows(), found.rows(), strict=True):
        for name in row.keys() - {"seconds", "kind", *SPEED_KEYS}:
            assert twin[name] == pytest.approx(row[name], rel=1e-3, abs=1e-3), (name, row["step"])
    weights, tensors = read_model_file(whole.last)[0], read_model_file(found.last)[0]
    torch.testing.assert_close(tensors, weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("resnet50", Bottleneck, 16),
        ("gc_cifar_resnet20", nn.Module, 9),
        ("mask_rcnn_gc_resnet18", BasicBlock, 8),
        ("efficientnet_b0", nn.Sequential, 7),
    ],
)
def test_weights_are_gathered_by_residual_blocks_or_stages(name, kind, number):
    with torch.device("meta"):
        network = create_model(name, num_classes=3)
    units = sharded_units(network)
    assert len(units) == number
    assert all(isinstance(unit, kind) for unit in units)
    modules = [module for unit in units for module in unit.modules()]
    assert len(set(modules)) == len(modules)  # no unit in another


def test_a_network_with_shared_parameters_is_one_unit():
    network = nn.Sequential(sharded.Residual(), sharded.Residual())
    assert sharded_units(network) == list(network)
    network[1].branch[0].weight = network[0].branch[0].weight
    assert sharded_units(network) == []


def test_parameters_of_several_dtypes_are_one_sentence():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(2, 2))
    with pytest.raises(UserError, match="`shard_model` needs parameters of one dtype, found float32 and float64"):
        shard([network], torch.device("cpu"), 2)


def test_a_network_that_cannot_be_copied_is_one_sentence():
    network = prune.l1_unstructured(nn.Linear(2, 2), "weight", amount=0.5)
    with pytest.raises(UserError, match="`shard_model` needs a network that can be copied"):
        without_weights(network)


@pytest.mark.parametrize("command", [gcnet.compare, partial(gcnet.reproduce, table=("design",), scale="small")])
def test_comparisons_train_whole_networks(command):
    with pytest.raises(UserError, match="`shard_model` is for single trainings by gcnet train"):
        command(shard_model=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"compile": True}, "`shard_model` excludes `compile`"),
        ({"channels_last": True}, "`shard_model` excludes `channels_last`"),
        ({"save_async": True}, "`shard_model` excludes `save_async`"),
        ({"precision": "fp16"}, "found fp16"),
        ({"batch_size": "auto"}, "needs a number as `batch_size`"),
        ({"output": "s3://bucket/run"}, "needs a folder as `output`"),
    ],
)
def test_what_a_sharded_network_lacks_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        override(TrainSettings(), shard_model=True, **changes)


def test_one_process_shards_nothing(tmp_path):
    photos = write_photos(tmp_path / "photos", train_images=2, val_images=1)
    with pytest.raises(UserError, match="`shard_model` needs two or more processes"):
        gcnet.train(data=str(photos), shard_model=True, output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
