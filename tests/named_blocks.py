"""The named blocks with the options that tests try, and what each of these has in common with others."""

from typing import Any

import pytest
from torch import nn

from gcnet.blocks import build_block

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
NON_LOCAL = ["nl_gaussian", "nl_embedded_gaussian", "nl_dot_product", "nl_concatenation"]
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gc": ("gc", {"ratio": 4}),
    "gc scale": ("gc", {"ratio": 4, "fusion": "scale"}),
    "gc both": ("gc", {"ratio": 4, "fusion": "both"}),
    "gc average": ("gc", {"ratio": 4, "pooling": "average"}),
    "snl": ("snl", {}),
    "se": ("se", {"ratio": 4}),
}
for _name in NON_LOCAL:
    SETTINGS[_name] = (_name, {})
    SETTINGS[f"{_name} sub_sample"] = (_name, {"sub_sample": True})
    SETTINGS[f"{_name} batch"] = (_name, {"normalization": "batch"})
SETTINGS |= {
    "gc heads": ("gc", {"ratio": 4, "heads": 2}),
    "dnl": ("dnl", {"temperature": 1.0}),
    "dnl batch": ("dnl", {"temperature": 1.0, "normalization": "batch"}),
    "gc_slots": ("gc_slots", {"slots": 3}),
    "gc_eca": ("gc_eca", {}),
    "gc_affine": ("gc_affine", {}),
    "eca": ("eca", {}),
    "ese": ("ese", {}),
    "lct": ("lct", {"groups": 2}),
    "gct": ("gct", {}),
    "gct learned": ("gct", {"learned": True}),
    "gated_gct": ("gated_gct", {}),
    "grn": ("grn", {}),
    "srm": ("srm", {}),
    "fca": ("fca", {"ratio": 4, "frequencies": 2}),
    "ge": ("ge", {}),
    "ge global excite": ("ge", {"excite": True, "ratio": 4}),
    "ge local": ("ge", {"extent": 2}),
    "ge local excite": ("ge", {"extent": 3, "excite": True, "ratio": 4}),
    "ge depthwise": ("ge", {"extent": 4, "gather": "depthwise"}),
    "ge depthwise excite": ("ge", {"extent": 2, "gather": "depthwise", "excite": True, "ratio": 4}),
}
GATES = ["gc scale", "gc both", "se", "eca", "ese", "lct", "gct", "gct learned", "srm", "fca"]
GATES += [name for name in SETTINGS if name.startswith("ge")]
for _name in ("se", "eca", "ese", "lct", "srm", "fca", "ge local excite", "ge depthwise", "ge depthwise excite"):
    SETTINGS[f"{_name} identity"] = (SETTINGS[_name][0], SETTINGS[_name][1] | {"identity_init": True})
IDENTITY = [name for name in SETTINGS if name not in GATES]
LOCAL = [name for name in SETTINGS if name.startswith(("ge local", "ge depthwise"))]
PERMUTABLE = [name for name in SETTINGS if "sub_sample" not in name and "fca" not in name and name not in LOCAL]
QUERY_INDEPENDENT = [
    name for name in SETTINGS if name.split()[0] not in (*NON_LOCAL, "dnl", "gc_slots") and name not in LOCAL
]
WITH_BATCH_NORM = [name for name in SETTINGS if "batch" in name or "depthwise" in name or "srm" in name]

every = pytest.mark.parametrize("name", SETTINGS)
every_identity = pytest.mark.parametrize("name", IDENTITY)
every_dims = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])


def make(name: str, channels: int = 22, dims: int = 2) -> nn.Module:
    block, options = SETTINGS[name]
    return build_block(block, channels=channels, dims=dims, **options)


def parameters(block: nn.Module) -> int:
    return sum(parameter.numel() for parameter in block.parameters())
