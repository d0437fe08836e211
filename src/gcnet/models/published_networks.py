"""Networks of published detectors by the names of their checkpoints, without the weights."""

import re
from typing import Any

from gcnet.checkpoints.published_files import find_published_file
from gcnet.errors import UserError

_DETECTOR = re.compile(r"(?P<kind>(?:cascade_)?mask_rcnn)_")
_BACKBONE = re.compile(r"_(?P<family>[rx])(?P<depth>50|101)(?P<groups>_32x4d)?_")
_RATIO = re.compile(r"_r(?P<ratio>\d+)_gcb")


def published_network(name: str) -> tuple[str, dict[str, Any]]:
    """Return the name and arguments of `create_model` for the network of a published checkpoint.

    Args:
        name: a name of `gcnet models --published`, such as "mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco".

    Raises:
        UserError: an unknown name, or a checkpoint that is not of a detector.
    """
    file = find_published_file(name)
    plain = name.partition("/")[2]
    detector, backbone, ratio = _DETECTOR.match(plain), _BACKBONE.search(plain), _RATIO.search(plain)
    if file.task != "detection" or detector is None or backbone is None:
        raise UserError(f"{name} is for {file.task}; only networks of published detectors are built without weights")
    family = "resnext" if backbone["family"] == "x" else "resnet"
    block, deformable = "gc_" if ratio else "", "_dcn" if "_dconv_" in plain else ""
    network = f"{detector['kind']}_{block}{family}{backbone['depth']}{backbone['groups'] or ''}{deformable}"
    arguments: dict[str, Any] = {"detector": {"conventions": file.library}}
    return network, arguments | ({"ratio": int(ratio["ratio"])} if ratio else {})
