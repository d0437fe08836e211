"""Categories and images of a COCO file, repaired or skipped."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from gcnet.data.coco.issues import Issue
from gcnet.data.coco.values import Entry, Ids, as_integer, short_repr

# Height and width in pixels of an image file by the image's `file_name`; None where they cannot be read.
ReadSize = Callable[[str], tuple[int, int] | None]

MOST_PIXELS = 2**31  # run lengths hold no more


class CategoryEntries:
    """The valid categories of a COCO file.

    Args:
        entries: The list "categories" of the file.
        issues: Receives the issues.

    Attributes:
        kept: Categories with a unique integer id and name.
        ids: Integer ids by the ids of the file.
        dropped: Integer ids of skipped categories.
        merged: Integer id of a category with a repeated name -> id of the first category of this name.
    """

    def __init__(self, entries: Sequence[Any], issues: list[Issue]) -> None:
        self._issues = issues
        self.ids = Ids(_raw_id(category) for category in entries)
        self.dropped: set[int | None] = set()
        self.merged: dict[int, int] = {}
        by_id: dict[int, Entry] = {}
        by_name: dict[str, int] = {}
        for number, category in enumerate(entries, start=1):
            identity, name = self.ids(_raw_id(category)), self._valid_name(category)
            if identity is None or name is None:
                self._report("category without id or name", f"category {number} of the list: {short_repr(category)}")
                self.dropped.add(identity)
            elif identity in by_id or identity in self.merged:
                self._report("repeated category id", f"id {category['id']} again, for {name!r:.60}")
            elif name in by_name:
                self._report("repeated category name", f"{name!r:.60} has the ids {by_name[name]} and {category['id']}")
                self.merged[identity] = by_name[name]
            else:
                if type(category["id"]) is not int or category["id"] != identity:
                    self._report("category id not an integer", f"id {category['id']!r:.60} of {name!r:.60}")
                by_id[identity], by_name[name] = {**category, "id": identity, "name": name}, identity
        self.kept = list(by_id.values())
        self.dropped -= by_id.keys() | {None}

    def _valid_name(self, category: Any) -> str | None:
        """Return the name with unpaired surrogates escaped, which files cannot store."""
        name = _name(category, "name")
        if name is None or not any("\ud800" <= letter <= "\udfff" for letter in name):
            return name
        self._report("category name not valid Unicode", f"{name!r:.60}")
        return name.encode("utf-8", "backslashreplace").decode()

    def _report(self, kind: str, found: str) -> None:
        self._issues.append(Issue(kind, found))


class ImageEntries:
    """The valid images of a COCO file.

    Args:
        entries: The list "images" of the file.
        issues: Receives the issues.
        read_size: Reads height and width of an image file, in pixels.

    Attributes:
        by_id: Images with a unique integer id, a file name and a size, by id.
        ids: Integer ids by the ids of the file.
        dropped: Integer ids of skipped images.
    """

    def __init__(self, entries: Sequence[Any], issues: list[Issue], read_size: ReadSize) -> None:
        self._issues, self._read_size = issues, read_size
        self.ids = Ids(_raw_id(image) for image in entries)
        self.dropped: set[int | None] = set()
        self.by_id: dict[int, Entry] = {}
        self._names: dict[str, int] = {}
        ambiguous = self._ambiguous(entries)
        for number, image in enumerate(entries, start=1):
            identity, name = self.ids(_raw_id(image)), image_name(image)
            if identity is None or name is None:
                self._issues.append(Issue("image without id or file name", f"image {number}: {short_repr(image)}"))
                self.dropped.add(identity)
            elif identity in ambiguous:
                self.drop({**image, "id": identity}, "image id of several files", f"id {image['id']!r:.60}, again")
            else:
                self._add({**image, "file_name": name}, identity)
        self.dropped -= self.by_id.keys() | {None}

    def drop(self, image: Entry, kind: str, found: str) -> None:
        """Skip an image and its annotations.

        Args:
            image: Entry of the image.
            kind: Kind of the issue.
            found: Value in the file.
        """
        self._report(image, kind, found)
        self.by_id.pop(image["id"], None)
        self.dropped.add(image["id"])

    def _ambiguous(self, entries: Sequence[Any]) -> set[int]:
        """Return image ids shared by several files; their annotations are ambiguous."""
        names: dict[int, set[str | None]] = {}
        for image in entries:
            if (identity := self.ids(_raw_id(image))) is not None:
                names.setdefault(identity, set()).add(image_name(image))
        return {identity for identity, files in names.items() if len(files) > 1}

    def _add(self, image: Entry, identity: int) -> None:
        name = os.path.normpath(image["file_name"])
        if identity in self.by_id:
            return self._report(image, "repeated image", f"listed before with the same id and {name!r:.60}")
        if name in self._names:
            return self.drop({**image, "id": identity}, "repeated file name", f"also image {self._names[name]}")
        size = self._size(image)
        if size is None:
            return self.drop({**image, "id": identity}, "invalid image size", _stated(image))
        if type(image["id"]) is not int or image["id"] != identity:
            self._report(image, "image id not an integer", f"id {image['id']!r:.60}")
        self.by_id[identity] = {**image, "id": identity, "height": size[0], "width": size[1]}
        self._names[name] = identity
        return None

    def _size(self, image: Entry) -> tuple[int, int] | None:
        """Return the annotated height and width, or those of the file."""
        height, width = as_integer(image.get("height")), as_integer(image.get("width"))
        if height is None or width is None or height < 1 or width < 1:
            size = self._read_size(image["file_name"])
            if size is not None:
                self._report(image, "missing image size", f"{_stated(image)}; the file has {size[1]} x {size[0]}")
            return size
        if height * width >= MOST_PIXELS:
            return None
        if type(image["height"]) is not int or type(image["width"]) is not int:
            self._report(image, "image size not an integer", _stated(image))
        return height, width

    def _report(self, image: Entry, kind: str, found: str) -> None:
        self._issues.append(Issue(kind, found, image["id"], None, image["file_name"]))


def image_name(image: Any) -> str | None:
    """Return the file name of the entry `image`, or None without one.

    LVIS has no file names; the last folder and name of the URL at COCO are used, such as train2017/000000000009.jpg.
    """
    name = _name(image, "file_name")
    if name is None and (url := _name(image, "coco_url")) is not None:
        name = "/".join(url.split("/")[-2:])
    return name


def _stated(image: Entry) -> str:
    return f"width {image.get('width')!r:.30}, height {image.get('height')!r:.30}"


def _raw_id(entry: Any) -> object:
    return entry.get("id") if isinstance(entry, dict) else None


def _name(entry: Any, key: str) -> str | None:
    """Return a non-empty name; numbers are converted."""
    name = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(name, int | float) and not isinstance(name, bool):
        name = f"{name}"[:60]
    return name if isinstance(name, str) and name else None
