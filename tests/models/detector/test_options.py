"""The options of a detector are those of its builder, and a value of the wrong kind is said in a sentence."""

import inspect

import pytest

from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.detector.mask_rcnn import build_mask_rcnn
from gcnet.models.detector.options import check_options

MISTAKES = {
    "region": (3, 'unknown option of a detector "region"; did you mean "regions"'),
    "norm": (None, 'unknown norm "None"; valid: fixed, frozen, batch, sync'),
    "heads": ("4conv", 'unknown heads "4conv"; did you mean "4conv1fc"'),
    "numerics": ([], r'unknown numerics "\[\]"; valid: torchvision, mmdet'),
    "norm_eps": ("1e-5", "norm_eps is added to variances, at least 0; found 1e-5"),
    "image_size": (800, "image_size is a short and a long side in whole pixels, found 800"),
    "anchor_sides": ("big", "anchor_sides are pixels above 0, one for each level, found big"),
    "width": (2.5, "width is a whole number, at least 1; found 2.5"),
    "hidden": (True, "hidden is a whole number, at least 1; found True"),
    "regions": (float("nan"), "regions is a whole number, at least 1; found nan"),
}


def test_the_builders_defaults_are_options_and_all_there_are() -> None:
    given_otherwise = ("host", "num_classes", "cascade", "masks")
    parameters = inspect.signature(build_mask_rcnn).parameters.items()
    defaults = {name: parameter.default for name, parameter in parameters if name not in given_otherwise}
    check_options(defaults)
    with pytest.raises(UserError, match=f"valid: {', '.join(defaults)}$"):
        check_options({"zzz": 1})


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said(name: str) -> None:
    value, sentence = MISTAKES[name]
    with pytest.raises(UserError, match=sentence):
        create_model("mask_rcnn_gc_cifar_resnet20", detector={name: value})


@pytest.mark.parametrize("options", [{"norm_eps": 0}, {"anchor_sides": [8, 9.5]}, {"image_size": [7, 7]}], ids=str)
def test_whole_numbers_and_lists_do_as_well(options: dict) -> None:
    check_options(options)
