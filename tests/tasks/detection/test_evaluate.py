"""Evaluation of detectors: metrics of known detections, unreadable images, several processes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.loading import DetectionDataset, build_detection_loader, image_to_tensor
from gcnet.data.coco.open import SceneReader, open_coco
from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError
from gcnet.data.sampler import EvaluationSampler
from gcnet.data.scenes import CATEGORIES, Scenes
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.ops.bits import unpack_bits
from gcnet.tasks.detection import inference as inference
from gcnet.tasks.detection.coco_metrics import coco_results, evaluate_detections
from gcnet.tasks.detection.metrics import DetectorResult, evaluate_detector, score_detections
from gcnet.training.distributed import Processes
from tasks.shaken import Knowing, as_results, shaken
from tasks.things import build_finder

Content = dict[str, Any]


@pytest.fixture(scope="module")
def scenes() -> CocoImages:
    generated = Scenes(7)
    return CocoImages(generated.coco_annotations(), SceneReader(generated))


def batches_of(images: CocoImages, size: int = 2, **share: int) -> Any:
    order = EvaluationSampler(len(images), batch_size=size, **share)
    return build_detection_loader(DetectionDataset(images, with_objects=False), order)


def test_exact_detections_score_one(scenes: CocoImages) -> None:
    counts: list[int] = []
    result = evaluate_detector(
        Knowing(scenes), batches_of(scenes), lambda: scenes.content, scenes.category_ids, progress=counts.append
    )
    for found in (result.boxes, result.masks):
        assert found.numbers["AP"] == found.numbers["AP75"] == found.numbers["APs"] == pytest.approx(1.0)
        assert found.numbers["AR100"] == pytest.approx(1.0)
        assert found.numbers["APm"] is None
        assert found.per_class == pytest.approx(dict.fromkeys(scenes.classes, 1.0))
    assert result.image_ids == (1, 2, 3, 4, 5, 6, 7)
    assert sum(result.objects.values()) == 7 * 6
    assert result.objects[CATEGORIES[0]] == 7
    assert counts == [2, 2, 2, 1]
    assert result.skipped == ()


def test_the_numbers_are_those_of_the_detections_of_the_network_itself(scenes: CocoImages) -> None:
    model = create_model("mask_rcnn_scenes_resnet", num_classes=3)
    few = scenes.subset([1, 4])
    result = evaluate_detector(model, batches_of(few), lambda: few.content, few.category_ids)
    assert model.training, "the mode is put back"
    model.eval()
    with torch.no_grad():
        found = model([image_to_tensor(few.read(index)) for index in (0, 1)])
    expected = coco_results(found, [2, 5], few.category_ids)
    assert len(expected) > 10
    assert [one["segmentation"] for one in result.results] == [one["segmentation"] for one in expected]
    for kind, judged in (("bbox", result.boxes), ("segm", result.masks)):
        numbers = evaluate_detections(few.content, expected, kind=kind, image_ids=[2, 5]).numbers
        assert judged.numbers == numbers


def test_masks_are_pasted_a_few_at_a_time_with_the_same_result(
    scenes: CocoImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_finder()
    few = scenes.subset([1, 4])
    whole = evaluate_detector(model, batches_of(few), lambda: few.content, few.category_ids)
    counts: list[int] = []
    paste = model.transform.postprocess

    def counted(found: list[dict[str, Tensor]], *sizes: Any) -> list[dict[str, Tensor]]:
        counts.append(len(found[0]["masks"]))
        return paste(found, *sizes)

    monkeypatch.setattr(model.transform, "postprocess", counted)
    monkeypatch.setattr(inference, "_PASTED_PIXELS", 3 * few.size(0)[0] * few.size(0)[1])
    in_parts = evaluate_detector(model, batches_of(few), lambda: few.content, few.category_ids)
    assert in_parts.results == whole.results
    assert in_parts.masks is not None and whole.masks is not None
    assert in_parts.masks.numbers == whole.masks.numbers
    assert sum(counts) == len(whole.results) > 6
    assert max(counts) == 3


def test_an_image_that_cannot_be_read_is_named_and_does_not_count(scenes: CocoImages) -> None:
    reader = SceneReader(Scenes(7))

    def read(entry: Any) -> Any:
        if entry["id"] == 3:
            raise ImageError(entry["file_name"], "it is damaged")
        return reader(entry)

    damaged = CocoImages(scenes.content, read)
    result = evaluate_detector(Knowing(scenes), batches_of(damaged), lambda: scenes.content, scenes.category_ids)
    assert result.skipped == (Skipped("000002.png", "it is damaged"),)
    assert result.image_ids == (1, 2, 4, 5, 6, 7)
    assert result.masks.numbers["AP"] == pytest.approx(1.0), "its objects are not missed"
    assert result.to_dict()["skipped"] == [{"name": "000002.png", "reason": "it is damaged"}]


class Second(Processes):
    """The second of two processes: `share` is what it sends to the first, and `received` what the first sends back."""

    share: ClassVar[list[Any]] = []
    received: ClassVar[list[DetectorResult]] = []

    def gather_in_first(self, value: object) -> list[Any]:
        self.share[:] = [value]
        return []

    def by_first(self, work: Callable[[], Any]) -> Any:  # noqa: ARG002
        return self.received[0]


class First(Processes):
    """The first of two processes; `sent` is what it sends to the second."""

    sent: ClassVar[list[Any]] = []

    def gather_in_first(self, value: object) -> list[Any]:
        return [value, *Second.share]

    def by_first(self, work: Callable[[], Any]) -> Any:
        self.sent[:] = [work()]
        return self.sent[0]


def test_the_first_process_computes_the_metrics_from_the_detections_of_all(scenes: CocoImages) -> None:
    model, opened = Knowing(scenes), []

    def annotations() -> Content:
        opened.append(1)
        return scenes.content

    Second.received[:] = [score_detections(scenes.content, [], [1])]
    second = batches_of(scenes, rank=1, world=2)
    metrics = evaluate_detector(model, second, annotations, scenes.category_ids, processes=Second(1, 2))
    assert metrics is Second.received[0]
    assert opened == []
    first = batches_of(scenes, rank=0, world=2)
    together = evaluate_detector(model, first, annotations, scenes.category_ids, processes=First(0, 2))
    alone = evaluate_detector(model, batches_of(scenes), annotations, scenes.category_ids)
    assert together.to_dict() == alone.to_dict() == First.sent[0].to_dict()
    assert sorted(map(str, together.results)) == sorted(map(str, alone.results))
    assert First.sent[0].results == ()


def test_the_same_by_results_as_plain_values(scenes: CocoImages) -> None:
    results = shaken(scenes.content)
    content = score_detections(scenes.content, results, [1, 2, 3]).to_dict()
    assert content["images"] == 3
    assert content["objects"] == 18
    masks = evaluate_detections(scenes.content, results, kind="segm", image_ids=[1, 2, 3])
    assert {name: content[f"segm_{name}_fraction"] for name in masks.numbers} == masks.numbers
    assert content["per_class"]["dark"]["segm_AP_fraction"] == masks.per_class["dark"]
    assert sum(one["objects"] for one in content["per_class"].values()) == 18
    assert content["is_coco_subset"] is False


def test_objects_are_counted_without_crowds(scenes: CocoImages) -> None:
    first, *others = scenes.content["annotations"]
    content = {**scenes.content, "annotations": [{**first, "iscrowd": 1}, *others]}
    assert sum(score_detections(content, [], [1, 2]).objects.values()) == 11


def test_masks_are_evaluated_on_the_images_whose_objects_all_have_one(scenes: CocoImages) -> None:
    results = shaken(scenes.content)
    content = copy.deepcopy(scenes.content)
    next(one for one in content["annotations"] if one["image_id"] == 2)["segmentation"] = []
    mixed, others = score_detections(content, results, [1, 2, 3]), score_detections(scenes.content, results, [1, 3])
    assert mixed.masks is not None and others.masks is not None
    assert (mixed.boxes.images, mixed.masks.images) == (3, 2)
    assert mixed.masks.numbers == others.masks.numbers
    assert score_detections(content, results, [2]).masks is None


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1.5])
def test_scores_that_are_none_are_refused(scenes: CocoImages, score: float) -> None:
    with pytest.raises(UserError, match="scores must be from 0 to 1; image 1 has one of"):
        score_detections(scenes.content, as_results(scenes.content, score), [1])


def test_a_set_of_which_nothing_can_be_read_is_refused(scenes: CocoImages) -> None:
    with pytest.raises(UserError, match=r"no image could be read, so nothing can be evaluated; a\.png: damaged"):
        score_detections(scenes.content, [], [], [Skipped("a.png", "damaged")])


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=["train", "val"])
def test_genuine_images_with_their_objects_score_one_when_these_are_fed_back(data_root: Path, part: int) -> None:
    found = open_coco(DataSettings(str(data_root / "coco-mini"), workers=2))[part]
    assert found.issue_report() is None
    images, results, image_ids = found.images, [], []
    order = EvaluationSampler(len(images), batch_size=4)
    for batch in build_detection_loader(DetectionDataset(images), order, workers=2):
        assert not batch.skipped
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert image.shape == (3, *masks_of(target, image).shape[1:])
        detected = [as_detected(target, image) for target, image in zip(batch.targets, batch.images, strict=True)]
        results += coco_results(detected, batch.image_ids, images.category_ids)
        image_ids += batch.image_ids
    assert image_ids == [images.image_id(index) for index in range((294, 188)[part])]
    result = score_detections(images.content, results, image_ids)
    for judged in (result.boxes, result.masks):
        for name, value in judged.numbers.items():
            if name not in ("AR1", "AR10"):  # an image may have more objects of a class
                assert value == pytest.approx(1.0, abs=1e-12), name
    assert result.is_coco_subset


def as_detected(target: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    masks = masks_of(target, image)[:, None].float()
    return {**target, "scores": torch.ones(len(target["labels"])), "masks": masks}


def masks_of(target: dict[str, Tensor], image: Tensor) -> Tensor:
    return unpack_bits(target["mask_bits"], image.shape[-1])
