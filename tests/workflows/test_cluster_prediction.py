"""Predictions on a Ray cluster of two nodes: the same file as without a cluster."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image

import gcnet
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.ray_cluster import RETRIES
from gcnet.workflows import cluster_prediction as cluster_prediction
from gcnet.workflows.prediction_records import PredictionFile
from ray_nodes import Nodes, two_nodes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # its own, of its defaults
]


PREDICTING = b"ray::MapWorker(Map(_NodePredictor)).submit"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with two_nodes(tmp_path_factory.mktemp("ray")) as started:
        yield started


def test_a_cluster_writes_the_same_records_as_one_process(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(3)
    for index in range(23):
        pixels = generator.integers(0, 256, (37 + index, 41, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "7.png").write_bytes(b"no image")
    torch.manual_seed(0)
    model = tmp_path / "classifier.safetensors"
    save_model(create_model("gc_scenes_resnet"), model, preprocessing={"image_size": 32})
    arguments = {"model": model, "batch_size": 2, "device": "cpu"}
    gcnet.predict(tmp_path / "photos", output=tmp_path / "alone.jsonl", **arguments)
    output = tmp_path / "cluster.jsonl"
    written = gcnet.predict(tmp_path / "photos", output=output, cluster=nodes.address, **arguments)
    assert written == PredictionFile(output, images=22, skipped=1)
    assert output.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    # A model that gives other numbers than finite ones fails on the nodes with the sentence of one process.
    broken = create_model("gc_scenes_resnet")
    next(broken.parameters()).data.fill_(torch.nan)
    save_model(broken, model, preprocessing={"image_size": 32})
    with pytest.raises(UserError, match="the network's outputs must be finite numbers"):
        gcnet.predict(tmp_path / "photos", output=tmp_path / "b.jsonl", cluster=nodes.address, **arguments)
    assert not (tmp_path / "b.jsonl").exists()
    # Nodes of another version than that of the command are refused.
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"need gcnet 99\.0, .*; found "):
        patch.setattr("gcnet.version.__version__", "99.0")
        gcnet.predict(tmp_path / "photos", output=tmp_path / "b.jsonl", cluster=nodes.address, **arguments)
    # A node without the current folder names it.
    monkeypatch.setattr(cluster_prediction.Path, "cwd", lambda: tmp_path / "gone")
    with pytest.raises(UserError, match="the nodes of the Ray cluster must share the images, .*gone: No such file"):
        gcnet.predict(tmp_path / "photos", output=tmp_path / "b.jsonl", cluster=nodes.address, **arguments)


def linked_photos(folder: Path, count: int) -> Path:
    """A folder of links to one photo that takes a while to decode; returns the folder."""
    folder.mkdir()
    pixels = np.random.default_rng(3).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "000.jpg")
    for index in range(1, count):
        os.link(folder / "000.jpg", folder / f"{index:03}.jpg")
    return folder


def test_a_batch_whose_process_dies_every_time_ends_the_prediction(nodes: Nodes, tmp_path: Path) -> None:
    photos = linked_photos(tmp_path / "photos", 1000)  # one batch, which takes longer than to find its process
    model, output, ended, kills = tmp_path / "classifier.safetensors", tmp_path / "a.jsonl", threading.Event(), []
    save_model(create_model("gc_scenes_resnet"), model, preprocessing={"image_size": 32})

    def kill() -> None:
        while not ended.wait(0.02):
            if nodes.kill_worker(PREDICTING):
                kills.append(time.monotonic())

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with pytest.raises(UserError, match="cannot predict, or its process .*ended 4 times: "):
            gcnet.predict(photos, model=model, batch_size=1000, device="cpu", output=output, cluster=nodes.address)
    finally:
        ended.set()
        killing.join()
    assert len(kills) >= RETRIES
    assert list(tmp_path.glob("*.jsonl*")) == []


def test_images_of_a_node_that_dies_are_predicted_by_another(nodes: Nodes, tmp_path: Path) -> None:
    photos, model, output = linked_photos(tmp_path / "photos", 80), tmp_path / "a.safetensors", tmp_path / "a.jsonl"
    torch.manual_seed(0)
    save_model(create_model("gc_scenes_resnet"), model, preprocessing={"image_size": 32})
    alive = []

    def kill() -> None:
        """Kill the second node while it predicts; meanwhile the first one, which starts earlier, is stopped."""
        deadline, stopped = time.monotonic() + 400, False
        while not (found := nodes.second_runs(PREDICTING)) and time.monotonic() < deadline:
            stopped = stopped or nodes.signal_head(PREDICTING, signal.SIGSTOP)
            time.sleep(0.02)
        if found:
            alive.append(sum(node["Alive"] for node in ray.nodes()))
            nodes.kill_second()
        if stopped:
            nodes.signal_head(PREDICTING, signal.SIGCONT)

    killing = threading.Thread(target=kill)
    killing.start()
    arguments = {"model": model, "batch_size": 2, "device": "cpu"}
    written = gcnet.predict(photos, output=output, cluster=nodes.address, **arguments)
    killing.join()
    assert alive == [2]
    assert written == PredictionFile(output, images=80, skipped=0)
    gcnet.predict([photos / "000.jpg", photos / "001.jpg"], output=tmp_path / "alone.jsonl", **arguments)
    expected = json.loads((tmp_path / "alone.jsonl").read_text().splitlines()[0])["classes"]
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["path"] for record in records] == [str(photos / f"{index:03}.jpg") for index in range(80)]
    assert all(record["classes"] == expected for record in records)
