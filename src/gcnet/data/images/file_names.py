"""Many file names in a few arrays, which processes share: about 40 bytes per name instead of 120."""

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from jaxtyping import Integer, UInt8, UInt64


class FileNames(Sequence[str]):
    """A sequence of file names, stored one after the other.

    Unlike a list of strings, it is not copied when a data-loader worker reads it.

    Args:
        text: All names without separators, encoded as by `os.fsencode`.
        ends: End of each name in `text`.
    """

    def __init__(self, text: UInt8[np.ndarray, " bytes"], ends: Integer[np.ndarray, " n"]) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def packed(cls, names: Iterable[str]) -> "FileNames":
        """Return the names of an iterable, packed."""
        packer = NamePacker()
        packer.extend(names)
        return packer.names()

    def arrays(self) -> tuple[UInt8[np.ndarray, " bytes"], UInt64[np.ndarray, " n"]]:
        """Return the text and the ends of the names; equal for the same names."""
        return self.text, self.ends.astype(np.uint64)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start = int(self.ends[number - 1]) if number else 0
        return os.fsdecode(self.text[start : int(self.ends[number])].tobytes())

    def with_suffix(self, suffixes: Sequence[str]) -> list[int]:
        """Return the indices of the names that end in one of the ASCII `suffixes`, given in lower case, in any case."""
        chosen = np.flatnonzero(np.diff(self.ends, prepend=0) >= min(map(len, suffixes)))
        for place in range(1, min(map(len, suffixes)) + 1):  # excludes almost all names without decoding them
            letters = {suffix[-place] for suffix in suffixes}
            allowed = np.isin(np.arange(256), [ord(case) for letter in letters for case in (letter, letter.upper())])
            chosen = chosen[allowed[self.text[self.ends[chosen] - place]]]
        endings = tuple(suffixes)
        return [index for index in chosen.tolist() if self[index].lower().endswith(endings)]


class NamePacker:
    """Collects names for `FileNames`."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def extend(self, names: Iterable[str]) -> None:
        """Append names."""
        for name in names:
            self._text += os.fsencode(name)
            self._ends.append(len(self._text))

    def names(self) -> FileNames:
        """Return all names."""
        ends = np.frombuffer(self._ends, dtype=np.uint64)
        narrow = np.uint32 if len(self._text) < 1 << 32 else np.uint64
        return FileNames(np.frombuffer(bytes(self._text), dtype=np.uint8), ends.astype(narrow))
