"""Errors for unknown model names, with the most likely intended name."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gcnet.errors import UserError, nearest, nearest_path, printable, unknown

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_LIBRARIES = ("timm", "torchvision")
_RUN_WEIGHTS = Path("weights/best.safetensors")


def unknown_model(name: str, *, own: Sequence[str], detectors: Sequence[str], prefixes: Mapping[str, str]) -> UserError:
    """Create the error for a name that neither this package nor timm nor torchvision knows.

    Args:
        name: the name given; it may be a file or a folder.
        own: names of the classifiers of this package.
        detectors: names of the detectors.
        prefixes: blocks by prefix ("gc" of "gc_").

    Returns:
        The error.
    """
    path = Path(name)
    if os.path.exists(name):  # not the method of Path, which raises for names that are too long
        return _existing(path)
    if path.suffix in _WEIGHT_SUFFIXES:
        return UserError(f"there is no model file {printable(name)}{nearest_path(name)}")
    import timm
    import torchvision.models

    classifiers = torchvision.models.list_models(module=torchvision.models)
    known = [*own, *timm.list_models(), *classifiers]
    library, _, plain = name.rpartition("/")
    if plain in torchvision.models.list_models() and plain not in known:
        return _of_torchvision(plain, detectors)
    hosts = {plain.removeprefix(prefix): block for prefix, block in prefixes.items() if plain.startswith(prefix)}
    for host, block in hosts.items():
        if host in known:
            return UserError(
                f'unknown model "{plain}"; blocks go into {host} by an option of their own: `model={host}` '
                f"`block={block}`"
            )
    alike = _spelled_alike(plain, [*known, *detectors])
    hint = f'; did you mean "{alike}"?' if alike else ""
    if os.sep in name and library not in _LIBRARIES:
        return UserError(f"there is no model file {printable(name)}{hint or nearest_path(name)}")
    if alike:
        return UserError(f'unknown model "{printable(name)}"{hint}')
    if "rcnn" in plain.lower():
        return unknown("detector", printable(plain), detectors)
    return unknown("model", printable(plain), known)


def unknown_tag(name: str) -> UserError:
    """Return the error for a timm network `name` with unknown pretrained weights ("resnet50.TAG")."""
    if os.path.exists(name):
        return _existing(Path(name))
    if Path(name).suffix in _WEIGHT_SUFFIXES:
        return UserError(f"there is no model file {printable(name)}{nearest_path(name)}")
    import timm

    network, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{network}.*")
    listed = nearest(name, tagged) or f"; there are {', '.join(tagged[:5]) or 'none'}"
    return UserError(f'timm has no weights "{printable(tag)}" of {network}{listed}')


def _existing(path: Path) -> UserError:
    if path.is_dir():
        weights = path / _RUN_WEIGHTS
        hint = (
            f"; did you mean `resume={printable(path)}` or `weights={printable(weights)}`?" if weights.exists() else ""
        )
        return UserError(f"`model` is the name of a network, and {printable(path)} is a folder{hint}")
    return UserError(
        f"`model` is the name of a network, and {printable(path)} is a file: give `weights={printable(path)}` beside "
        "the name of its network (in Python: create_model(NAME, weights=FILE))"
    )


def _of_torchvision(name: str, detectors: Sequence[str]) -> UserError:
    """The error for networks of torchvision that are no classifiers of images."""
    import torchvision.models

    kind = torchvision.models.get_model_builder(name).__module__.split(".")[2]
    host = name.removeprefix("maskrcnn_").removeprefix("fasterrcnn_").removesuffix("_v2").removesuffix("_fpn")
    ours = ("mask_rcnn_" if name.startswith("mask") else "faster_rcnn_") + host
    hint = f'; did you mean our detector "{ours}"?' if ours in detectors else ""
    return UserError(
        f"{name} is one of torchvision's models for {kind.replace('_', ' ')}, and of torchvision only image "
        f"classifiers go by their name{hint}"
    )


def _spelled_alike(name: str, known: Iterable[str]) -> str | None:
    """The known name that differs in capitals, hyphens, underscores and a tag of weights alone."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    return next((other for other in known if plain(other) == plain(name.partition(".")[0])), None)
