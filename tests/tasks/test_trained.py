"""What `--model` and `--weights` name is opened as a classifier or as a detector, with what came with it."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.tasks.classification.trained import TrainedClassifier
from gcnet.tasks.detection.trained import TrainedDetector
from gcnet.tasks.trained import model_path, open_trained
from tasks.things import CATEGORY_IDS, CLASSES, build_finder, save_finder


def open_detector(model: str, weights: str | None = None) -> TrainedDetector:
    detector = open_trained(model, weights).trained
    assert isinstance(detector, TrainedDetector)
    return detector


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_finder(tmp_path_factory.mktemp("model") / "finder.safetensors")


def test_a_detector_file_has_class_names_and_category_ids(finder: Path) -> None:
    detector = open_detector(str(finder))
    assert (detector.class_names, detector.category_ids) == (CLASSES, CATEGORY_IDS)
    assert not detector.model.training


@pytest.mark.parametrize("name", ["mask_rcnn_scenes_resnet", "cascade_mask_rcnn_gc_scenes_resnet"])
def test_weights_of_a_detector_by_name_determine_the_number_of_classes(name: str, tmp_path: Path) -> None:
    state = create_model(name, num_classes=4).state_dict()
    torch.save({"model": state}, tmp_path / "four.pth")
    detector = open_detector(name, str(tmp_path / "four.pth"))
    assert detector.class_names is None
    assert detector.category_ids == (1, 2, 3, 4)
    assert detector.names() == ("class 1", "class 2", "class 3", "class 4")
    found = detector.model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_published_weights_of_imagenet_have_its_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    published = open_trained("resnet18", "IMAGENET1K_V1").trained
    assert isinstance(published, TrainedClassifier)
    descriptions = timm.data.ImageNetInfo().label_descriptions()
    assert [name.split()[0] for name in published.names()] == [one.replace(",", "").split()[0] for one in descriptions]
    assert published.class_names is None  # an evaluation takes the folders of the data in their order
    torch.save(state, tmp_path / "own.pth")
    own = open_trained("resnet18", str(tmp_path / "own.pth")).trained
    assert isinstance(own, TrainedClassifier)
    assert own.names()[281] == "class 281"


def test_a_file_without_class_names_names_the_classes_by_their_ids(tmp_path: Path) -> None:
    save_model(build_finder(), tmp_path / "plain.safetensors", category_ids=CATEGORY_IDS)
    assert open_detector(str(tmp_path / "plain.safetensors")).names() == ("class 3", "class 7", "class 12")
    save_model(build_finder(), tmp_path / "plainer.safetensors")
    assert open_detector(str(tmp_path / "plainer.safetensors")).category_ids == (1, 2, 3)


def test_each_network_comes_with_its_task(model_file: Path, finder: Path) -> None:
    assert open_trained(str(model_file)).task.name == "classification"
    assert open_trained(str(finder)).task.name == "detection"


def test_names_and_ids_must_be_one_for_each_class(tmp_path: Path) -> None:
    save_model(build_finder(), tmp_path / "names.safetensors", class_names=("ball", "cube"))
    with pytest.raises(UserError, match="names 2 classes for 3 outputs; it must name each"):
        open_trained(str(tmp_path / "names.safetensors"))
    save_model(build_finder(), tmp_path / "ids.safetensors", category_ids=(1, 2, 3, 4))
    with pytest.raises(UserError, match="names 4 category ids for 3 outputs; it must name each"):
        open_trained(str(tmp_path / "ids.safetensors"))


def test_a_detector_whose_weights_are_not_finite_is_refused(tmp_path: Path) -> None:
    model = build_finder()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[1] = float("nan")
    save_model(model, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=r"must be finite numbers; roi_heads.box_predictor.cls_score.bias of .*broken"):
        open_trained(str(tmp_path / "broken.safetensors"))


def test_detectors_that_cannot_be_opened_get_a_sentence(finder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="requires trained weights: add `weights=FILE` to mask_rcnn_gc_scenes_"):
        open_trained("mask_rcnn_gc_scenes_resnet")
    with pytest.raises(UserError, match="add `weights=FILE` or `weights=pretrained` to resnet18"):
        open_trained("resnet18")
    with pytest.raises(UserError, match='unknown detector "mask_rcnn_scenes_resnt"; did you mean "mask_rcnn_scenes_'):
        open_trained("mask_rcnn_scenes_resnt")
    with pytest.raises(
        UserError, match=r"finder\.safetensors is a model file with its own network: pass it as `model`"
    ):
        open_trained("mask_rcnn_scenes_resnet", str(finder))
    torch.save(create_model("cifar_resnet20").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth do not fit this network"):
        open_trained("mask_rcnn_scenes_resnet", str(tmp_path / "other.pth"))


def test_a_name_that_is_too_long_for_a_file_is_the_name_of_no_network() -> None:
    assert model_path("x" * 5000) is None
    with pytest.raises(UserError, match="unknown model"):
        open_trained("x" * 5000)


def test_a_missing_model_file_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        UserError, match=r'there is no model file .*modle.safetensors; did you mean ".*model.safetensors"'
    ):
        open_trained(str(tmp_path / "modle.safetensors"))
