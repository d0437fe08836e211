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
    bases = {plain.removeprefix(prefix): block for prefix, block in prefixes.items() if plain.startswith(prefix)}
    for base, block in bases.items():
        if base in known:
            return UserError(f'unknown model "{plain}"; use `model={base}` with `block={block}`')
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
        either = f"`gcnet.resume({printable(path)})` or `weights={printable(weights)}`"
        hint = f"; did you mean {either}?" if weights.exists() else ""
        return UserError(f"`model` is the name of a network, but {printable(path)} is a folder{hint}")
    return UserError(
        f"`model` is the name of a network, but {printable(path)} is a file: give `weights={printable(path)}` beside "
        "the name of its network (in Python: create_model(NAME, weights=FILE))"
    )


def _of_torchvision(name: str, detectors: Sequence[str]) -> UserError:
    """The error for torchvision models other than image classifiers."""
    import torchvision.models

    kind = torchvision.models.get_model_builder(name).__module__.split(".")[2]
    base = name.removeprefix("maskrcnn_").removeprefix("fasterrcnn_").removesuffix("_v2").removesuffix("_fpn")
    detector = ("mask_rcnn_" if name.startswith("mask") else "faster_rcnn_") + base
    hint = f'; did you mean "{detector}"?' if detector in detectors else ""
    return UserError(
        f"{name} is a torchvision model for {kind.replace('_', ' ')}, and only image classifiers of torchvision are "
        f"supported{hint}"
    )


def _spelled_alike(name: str, known: Iterable[str]) -> str | None:
    """The known name that differs only in case, hyphens, underscores and a weights tag."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    return next((other for other in known if plain(other) == plain(name.partition(".")[0])), None)
