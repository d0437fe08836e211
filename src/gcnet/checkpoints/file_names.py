"""File names that contradict the weights; mmdet issues 4654 and 5356 report published files with exchanged names."""

import re
from typing import Any

from gcnet.checkpoints.network import NetworkDescription
from gcnet.errors import printable

_RATIO = re.compile(r"(?<![a-z0-9])r(\d+)[_-]gcb|gcb[_-]r(\d+)(?!\d)")
_DEPTH = re.compile(r"(?<![a-z0-9])(?:resne)?([rx])t?(18|34|50|101|152)(?!\d)")
_ARCHITECTURE = re.compile(r"resne(x?)t(\d+)")
_DEFORMABLE = re.compile(r"(?<![a-z0-9])(dconv|dcn|mdconv)(?![a-z])")


def contradictions(file_name: str, network: NetworkDescription) -> list[str]:
    """Return a sentence for each part of a file name that contradicts the network in the file.

    Args:
        file_name: such as "mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco_20200204-17235656.pth".
        network: description of the network.
    """
    claims, facts = _claims(file_name.lower()), _facts(network)
    return [
        f'the file is called "{printable(file_name)}", which says {claims[part]}, but its weights have {facts[part]}'
        for part in claims
        if claims[part] != facts[part]
    ]


def _claims(name: str) -> dict[str, str]:
    ratio, depth = _RATIO.search(name), _DEPTH.search(name)
    claims = {}
    if ratio:
        claims["ratio"] = f"blocks of ratio {ratio[1] or ratio[2]}"
    if depth:
        claims["depth"] = f"ResNe{'X' if depth[1] == 'x' else ''}t-{depth[2]}"
    if _DEFORMABLE.search(name):
        claims["convolutions"] = "deformable convolutions"
    if "cascade" in name:
        claims["heads"] = "a cascade"
    return claims


def _facts(network: NetworkDescription) -> dict[str, Any]:
    name = network.architecture
    depth = _ARCHITECTURE.search(name)
    ratios = [insertion["ratio"] for insertion in network.insertions if "ratio" in insertion]
    return {
        "ratio": f"blocks of ratio {ratios[0]:g}" if ratios else "no blocks with a ratio",
        "depth": f"ResNe{'X' if depth[1] else ''}t-{depth[2]}" if depth else name,
        "convolutions": "deformable convolutions" if name.endswith("_dcn") else "no deformable convolutions",
        "heads": "a cascade" if name.startswith("cascade") else "no cascade",
    }
