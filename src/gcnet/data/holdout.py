"""A part of the images held out for validation: the same share of every class, chosen by a seed."""

from hashlib import blake2b

from gcnet.data.images import ImageSource, SubsetImages
from gcnet.errors import UserError


def hold_out(source: ImageSource, fraction: float, seed: int) -> tuple[SubsetImages, SubsetImages]:
    """Training and validation images of one source, in its order.

    Of a class with n images round(fraction * n) are held out, at least one and at most n - 1; a single image is for
    training. The choice depends on seed and names alone: an added image moves no other by more than the rounding.

    Args:
        source: all images.
        fraction: share that is held out, between 0 and 1.
        seed: of the choice.

    Raises:
        UserError: no class has two images.
    """
    members: dict[int, list[int]] = {}
    for index in range(len(source)):
        members.setdefault(source.label(index), []).append(index)
    held: set[int] = set()
    for indices in members.values():
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held.update(sorted(indices, key=lambda index: _rank(source.name(index), seed))[:count])
    if not held:
        raise UserError(
            f"--val-fraction needs a class of two images or more to split, found {len(source):,} images in "
            f"{len(members):,} classes"
        )
    everything = range(len(source))
    return (
        SubsetImages(source, [index for index in everything if index not in held]),
        SubsetImages(source, [index for index in everything if index in held]),
    )


def _rank(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
