"""Names of classes as data have them, matched to known ones."""

import unicodedata
from collections.abc import Sequence

from gcnet.errors import UserError, nearest, printable

_LISTED = 5


def label_classes(
    found: Sequence[str], classes: Sequence[str] | None, place: object
) -> tuple[dict[str, int], list[str]]:
    """The label of each class name in the data, and what was repaired, a sentence each.

    A name that differs from a known one only in how Unicode composes its letters is the same class, since macOS and
    other systems write letters with accents differently.

    Args:
        found: names of the classes in the data.
        classes: known names in the order of the labels; None takes those found.
        place: the folder or table, for messages.

    Raises:
        UserError: for the first name that is not among the known ones, with the nearest of them.
    """
    known = {name: label for label, name in enumerate(found if classes is None else classes)}
    by_composed = {composed(name): label for name, label in known.items()}
    labels: dict[str, int] = {}
    for name in found:
        label = known.get(name, by_composed.get(composed(name)))
        if label is None:
            raise _unknown(name, list(known), found, place)
        labels[name] = label
    other = [name for name in found if name not in known]
    notes = [_repaired(other, place)] if other else []
    return labels, [*notes, *(alike(found, place) if classes is None else [])]


def composed(name: str) -> str:
    """The name with each letter and its accents as one character (Unicode's form NFC)."""
    return unicodedata.normalize("NFC", name)


def alike(found: Sequence[str], place: object) -> list[str]:
    """A sentence on classes that may be meant as one; none where there are no such."""
    groups: dict[str, list[str]] = {}
    for name in found:
        groups.setdefault(_essence(name), []).append(name)
    several = [names for names in groups.values() if len(names) > 1]
    if not several:
        return []
    shown = "; ".join(" and ".join(f'"{name}"' for name in names) for names in several[:_LISTED])
    return [f"{place}: classes with almost the same name are kept apart: {shown}"]


def _essence(name: str) -> str:
    """The name without what people mistype: case, spaces, how a letter is composed, and 2.0 for 2."""
    text = "".join(composed(name).casefold().split())
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _repaired(names: Sequence[str], place: object) -> str:
    which = f'class "{names[0]}" is' if len(names) == 1 else f'{len(names)} classes, such as "{names[0]}", are'
    return f"{place}: {which} written in another Unicode form than the known name, and taken for the same"


def _unknown(name: str, known: Sequence[str], found: Sequence[str], place: object) -> UserError:
    proposal = nearest(name, known)
    lists = "" if proposal else f"; known: {_some(known)}; found: {_some(found)}"
    return UserError(f'{place}: class "{name}" is not among the {len(known)} known ones{proposal}{lists}')


def _some(classes: Sequence[str]) -> str:
    return printable(", ".join(classes[:_LISTED])) + (", ..." if len(classes) > _LISTED else "")
