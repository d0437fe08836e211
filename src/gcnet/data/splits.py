"""Names of training, validation and test splits in folders, files and tables."""

import re
from collections.abc import Mapping

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "minival"),
    "test": ("test", "testing"),
}
"""Names of each split, in any letter case."""

_WORDS = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_INSTANCES = re.compile(r"instances[_-](train|val|test)", re.IGNORECASE)


def split_named(name: str) -> str | None:
    """Return the split with exactly this name.

    Args:
        name: Name of a folder, or a value of the column split of a CSV.

    Returns:
        A key of `SPLIT_NAMES`, or None for any other name.
    """
    return _WORDS.get(name.lower())


def split_of_folder(name: str) -> str | None:
    """Return the split a folder is named after, ignoring trailing digits.

    Args:
        name: Name of a folder, such as "train2017" or "Valid".

    Returns:
        A key of `SPLIT_NAMES`, or None for any other name, such as "test_bench".
    """
    return _WORDS.get(name.lower().rstrip("0123456789-_"))


def split_in_name(name: str) -> str | None:
    """Return the split mentioned as a word of a file or folder name.

    Args:
        name: Name without its suffix, such as "instances_val2017" or "myTrainSet".

    Returns:
        A key of `SPLIT_NAMES`, or None for names that mention no split or several.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    splits = {_WORDS[word] for word in words if word in _WORDS}
    coco_name = _INSTANCES.match(name)  # such as instances_valminusminival2014.json
    if not splits and coco_name:
        return coco_name[1].lower()
    return splits.pop() if len(splits) == 1 else None
