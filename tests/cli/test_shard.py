import json
from pathlib import Path

import pytest

from gcnet.cli import main
from gcnet.data.sample_data import write_photos

TRAIN = ["--model", "gc_cifar_resnet20", "--image-size", "16", "--batch-size", "16", "--device", "cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    return tmp_path


def losses(run: str) -> list[list[float]]:
    """Training and validation loss of each epoch."""
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [[row["train_loss"], row["val_loss"]] for row in rows if "val_loss" in row]


@pytest.mark.slow
def test_training_on_shards_gives_the_bits_of_training_on_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "photos", "--output", "shards", "--shard-size", "1"]) == 0
    assert "wrote 96 images of train, 32 images of val to 2 shards in shards" in capsys.readouterr().out
    for name, data in (("folder", "photos"), ("sharded", "shards/{train,val}-*.tar")):
        assert main(["train", "--data", data, *TRAIN, "--steps", "3", "--output", name]) == 0
    assert losses("folder") == losses("sharded")


@pytest.mark.slow
def test_check_data_and_evaluate_give_the_numbers_of_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "photos"]) == 0
    assert main(["train", "--data", "shards", *TRAIN, "--steps", "2", "--output", "run"]) == 0
    outputs = []
    for data in ("photos", "shards", "shards/{train,val}-*.tar"):
        capsys.readouterr()
        assert main(["check-data", data]) == 0
        outputs.append(capsys.readouterr().out)
        assert main(["evaluate", "run", "--data", data]) == 0
        outputs.append(capsys.readouterr().out.replace(data, "DATA"))
    assert outputs[:2] == outputs[2:4] == outputs[4:]


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["shard", "nowhere"], 'gcnet: DATA: nothing at "nowhere"'),
        (["shard", "photos", "--output", "photos"], "the output must be a new or empty folder, found photos"),
        (["shard", "photos", "--output", "photos/train/shards"], "--output must not be in a folder of images"),
        (["shard", "photos", "--shard-size", "0"], "--shard-size must be 1 or more, found 0"),
        (["train", "--data", "0.tar", "1.tar", *TRAIN], 'quotes, such as "shards/{train,val}-*.tar"'),
        (["check-data", "0.tar", "1.tar"], 'unexpected argument "1.tar"; a pattern of shards is given in quotes'),
        (["train", "--data", "shards/{train,val}-*.tar", *TRAIN], "no shard matches shards/{train,val}-*.tar"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
