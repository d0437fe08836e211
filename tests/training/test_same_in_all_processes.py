"""Processes that have other data, weights, settings or checkpoints than the first one: one sentence, or the same."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import gcnet
from gcnet.data.images.labeled import find_image_layout, open_labeled
from gcnet.data.images.sources import CachedImages, SubsetImages
from gcnet.data.scenes import Scenes
from gcnet.data.settings import DataSettings
from gcnet.tensor_files import load_tensors
from gcnet.training.checksums import describe_labeled, describe_weights
from gcnet.training.progress import Silent
from gcnet.training.remote_run import RemoteRun
from gcnet.training.settings import override
from gcnet.workflows.train import run_training
from shard_writing import write_tar
from training import together
from training.photos import call_as_two, exit_codes, settings_for, small_network, write_photos

PATIENCE = 120


def table(folder: Path, *, swapped: bool) -> str:
    """A CSV of images in two classes; `swapped` exchanges the labels of two images of the same split."""
    photos = folder / "photos"
    if not photos.exists():
        write_photos(photos, train_images=3, val_images=2)
    rows = [
        [str(path.relative_to(folder)), path.parent.name, path.parent.parent.name] for path in photos.rglob("*.png")
    ]
    rows.sort()
    if swapped:
        rows[0][1], rows[-1][1] = rows[-1][1], rows[0][1]
        assert rows[0][2] == "train" and rows[-1][2] == "val"
    file = folder / f"images-{swapped}.csv"
    file.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    return str(file)


def annotations(folder: Path, *, moved: bool) -> str:
    """Annotated scenes; `moved` changes one box."""
    data = folder / f"coco-{moved}"
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}2017.json"
        Scenes(3, split=split, seed=3).write_coco(data / f"{split}2017", file)
        if moved:
            content = json.loads(file.read_text())
            content["annotations"][0]["bbox"][0] += 1
            file.write_text(json.dumps(content))
    return str(data)


def weights(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    path = folder / f"{seed}.safetensors"
    gcnet.save_model(gcnet.create_model("gc_scenes_resnet"), path, preprocessing={"image_size": 32})
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["labels", "annotations", "weights", "settings"])
def test_what_differs_between_processes_is_named_before_any_work(tmp_path: Path, case: str) -> None:
    small: dict[str, Any] = {"model": "cifar_resnet20", "output": str(tmp_path / "run")}
    own: list[dict[str, Any]]
    work: Any = gcnet.train
    if case == "labels":
        own = [small | {"data": table(tmp_path, swapped=swapped)} for swapped in (False, True)]
        expected = "rank 0 has 9 and 6 images (checksum of their names and labels"
    elif case == "annotations":
        detector = small | {"model": "faster_rcnn_gc_scenes_resnet"}
        own = [detector | {"data": annotations(tmp_path, moved=moved)} for moved in (False, True)]
        expected = "rank 0 has 3 and 3 images (checksum of their annotations"
    elif case == "weights":
        own, work = (
            [{"model": weights(tmp_path, seed), "data": "scenes", "limit": 4} for seed in (0, 1)],
            gcnet.evaluate,
        )
        expected = "rank 0 has a model whose weights have the checksum"
    else:
        own = [small | {"data": table(tmp_path, swapped=False), "lr": lr} for lr in (0.1, 0.2)]
        expected = "all processes need the same settings; rank 0 has `lr=0.1`, and rank 1 `lr=0.2`"
    assert exit_codes(call_as_two(together.call_with_own, tmp_path, work, own), PATIENCE) == [0, 0]
    sentences = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert sentences[0] == sentences[1]
    assert expected in sentences[0][0] and sentences[0][1]
    assert not (tmp_path / "run").exists()


def test_checksums_of_labeled_images_are_of_names_labels_and_places(tmp_path: Path) -> None:
    first, again, other = (
        describe_labeled(*open_labeled(DataSettings(data=table(tmp_path, swapped=swapped)), 0))
        for swapped in (False, False, True)
    )
    assert first == again != other
    images = find_image_layout(str(tmp_path / "photos"), "`data`").open("train")
    assert describe_labeled(images) == describe_labeled(CachedImages(images))
    assert describe_labeled(SubsetImages(images, [0, 1])) != describe_labeled(SubsetImages(images, [0, 2]))


def test_checksums_of_shards_differ_where_an_image_has_another_size(tmp_path: Path) -> None:
    found = []
    for size in (3, 4):
        write_tar(tmp_path / "train-0.tar", {"a.png": b"x" * size, "a.cls": b"0"})
        found.append(describe_labeled(find_image_layout(str(tmp_path), "`data`").open("train")))
    assert found[0] != found[1]


def test_checksums_of_weights_are_of_values_and_names() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(torch.bfloat16)
    before = describe_weights(network)
    assert describe_weights(network.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network[1].running_var[3] += 1
    assert describe_weights(network) != before


@pytest.mark.slow
def test_steps_that_only_the_first_machine_has_are_published_before_a_resume(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the machines are lost between the checkpoint of the first and its publication."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache-0"))
    url, photos = f"{s3}/run", write_photos(tmp_path / "photos", train_images=4, val_images=2)
    settings = override(settings_for(photos, Path("unused"), batch_size=2, epochs=1.0), output=url)
    publish = []

    def first_only(run: Any) -> None:
        publish.append(load_tensors(run.path / "checkpoint.safetensors")[1]["state"]["trainer"]["step"])
        if len(publish) == 1:
            original(run)
        elif publish[-1] != publish[0]:
            raise KeyboardInterrupt

    original = RemoteRun.publish
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RemoteRun, "publish", first_only)
        run_training(settings, build_model=small_network, reporter=Silent())
    assert publish[0] < publish[-1] < 6
    kept = ("AWS_", "NO_PROXY", "no_proxy")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    processes = call_as_two(together.resume_on_own_machine, tmp_path, url, environment)
    assert exit_codes(processes, PATIENCE) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == [6, 6] and second == [6, publish[-1]]
