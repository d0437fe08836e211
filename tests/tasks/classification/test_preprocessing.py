"""The preprocessing of a network by name gives the pixels that timm's and torchvision's own transforms give."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image, ImageFilter

import gcnet
from gcnet.data.settings import Preprocessing
from gcnet.data.transforms import build_eval_transform
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.tasks.classification.preprocessing import own_preprocessing, published_preprocessing
from gcnet.tasks.classification.trained import TrainedClassifier
from gcnet.tasks.classification.training import open_classification
from gcnet.tasks.trained import open_trained
from gcnet.training.distributed import Processes
from training.photos import settings_for, write_photos


def photo(width: int, height: int) -> Image.Image:
    """Smooth colors with edges and fine noise, as in photographs."""
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(7))
    return Image.blend(smooth, Image.fromarray(noise), 0.2)


PHOTOS = [photo(500, 375), photo(331, 467), photo(640, 211)]

# Of each kind: another mean, crop share, interpolation, crop mode, or a larger size for evaluation than for training.
TIMM = [
    "vit_tiny_patch16_224",
    "resnet50.a1_in1k",
    "timm/resnet50.tv_in1k",
    "convnext_tiny.fb_in22k_ft_in1k_384",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_large_100",
    "inception_v3.tf_adv_in1k",
    "vit_base_patch16_siglip_224",
]


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("training", [False, True])
def test_pixels_are_those_of_timms_transform(name: str, training: bool) -> None:
    config = timm.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
    resolved = timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=not training)
    reference = timm.data.create_transform(**resolved)
    found = published_preprocessing(f"timm/{name.removeprefix('timm/')}", training=training)
    assert found is not None
    for image in PHOTOS:
        torch.testing.assert_close(build_eval_transform(found)(image), reference(image), atol=1e-6, rtol=0)


def test_a_network_for_images_that_are_padded_after_resizing_is_refused_in_its_own_words() -> None:
    with pytest.raises(UserError, match=r"volo_d5_448\S* is for images resized to 389 pixels and padded to 448"):
        published_preprocessing("volo_d5_448", "pretrained")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V2"),
        ("resnet18", "pretrained"),
        ("torchvision/efficientnet_b1", "IMAGENET1K_V2"),
        ("torchvision/vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("torchvision/swin_t", "DEFAULT"),
    ],
)
def test_pixels_are_those_of_torchvisions_transform(name: str, version: str) -> None:
    members = torchvision.models.get_model_weights(name.rpartition("/")[2])
    weights = members[version] if version.startswith("IMAGENET") else members.DEFAULT
    found = published_preprocessing(name, version)
    assert found is not None
    for image in PHOTOS:
        torch.testing.assert_close(build_eval_transform(found)(image), weights.transforms()(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_normalization_inside_torchvision_networks_is_part_of_the_preprocessing(name: str) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    model = torchvision.models.get_model(name, weights=None, transform_input=True, init_weights=False)
    found = published_preprocessing(f"torchvision/{name}", "pretrained")
    assert found is not None
    for image in PHOTOS:
        inside = model._transform_input(weights.transforms()(image)[None])[0]
        torch.testing.assert_close(build_eval_transform(found)(image), inside, atol=1e-5, rtol=0)


def test_a_file_of_torchvision_is_recognized_by_its_name_and_any_other_counts_as_the_first() -> None:
    assert published_preprocessing("resnet50", "/elsewhere/resnet50-11ad3fa6.pth") == Preprocessing(224, 232)
    assert published_preprocessing("resnet50", "/elsewhere/resnet50-0676ba61.pth") == Preprocessing(224, 256)
    assert published_preprocessing("resnet50", "/elsewhere/my.pth") == Preprocessing(224, 256)


def test_networks_of_our_own_have_the_size_of_their_images_and_detectors_none() -> None:
    assert published_preprocessing("cifar_resnet20", "w.pth") == Preprocessing(32)
    assert published_preprocessing("scenes_resnet", "w.pth") == Preprocessing(64)
    assert published_preprocessing("resnext101_32x4d", "w.pth") == Preprocessing(224, 256)
    assert published_preprocessing("mask_rcnn_resnet50", "w.pth") is None


def test_a_model_files_own_preprocessing_comes_before_that_of_the_name(tmp_path: Path) -> None:
    stored = Preprocessing(48, 55, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), crop_mode="squash")
    save_model(create_model("cifar_resnet20"), tmp_path / "own.safetensors", preprocessing=stored.to_dict())
    assert own_preprocessing("cifar_resnet20", str(tmp_path / "own.safetensors")) == stored
    save_model(create_model("cifar_resnet20"), tmp_path / "none.safetensors")
    assert own_preprocessing("cifar_resnet20", str(tmp_path / "none.safetensors")) == Preprocessing(32)


def test_training_and_inference_with_weights_by_name_prepare_images_as_their_authors(tmp_path: Path) -> None:
    name, weights = "tf_mobilenetv3_small_minimal_100", str(tmp_path / "weights.pth")
    torch.save(create_model(name).state_dict(), weights)
    mean, interpolation = (0.5, 0.5, 0.5), timm.get_pretrained_cfg(name).interpolation
    settings = settings_for(write_photos(tmp_path / "data"), tmp_path / "run", model=name, weights=weights)
    training = open_classification(settings, Processes()).splits.preprocessing
    trained = open_trained(name, weights).trained
    assert isinstance(trained, TrainedClassifier) and trained.preprocessing is not None
    predictor = gcnet.load(name, weights=weights)
    for found in (training, trained.preprocessing, predictor.preprocessing):
        assert (found.image_size, found.mean, found.std, found.interpolation) == (224, mean, mean, interpolation)


def test_a_way_to_prepare_images_that_is_not_supported_is_named() -> None:
    with pytest.raises(UserError, match="deepseek_vit_412m.* is for images padded to a square, which gcnet does not"):
        published_preprocessing("deepseek_vit_412m")


def test_an_unknown_version_lists_the_published_ones() -> None:
    with pytest.raises(UserError, match='IMAGENET1K_V3"; did you mean "IMAGENET1K_V[12]"'):
        published_preprocessing("resnet50", "IMAGENET1K_V3")
