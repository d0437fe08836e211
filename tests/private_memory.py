"""Private memory of a process (USS), by which starts with large data are measured."""

from pathlib import Path


def private_memory(process: int | str = "self") -> int:
    """Return the bytes of the pages that a process shares with no other one, changed or not.

    Unchanged pages of libraries do not count: they are shared while another process has loaded the library.

    Args:
        process: Process id.
    """
    kilobytes, is_library = 0, False
    for line in Path(f"/proc/{process}/smaps").read_text(errors="replace").splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # a mapping: addresses, permissions, offset, device, inode and path
            is_library = ".so" in "".join(values[4:])
        elif name == "Private_Dirty:" or (name == "Private_Clean:" and not is_library):
            kilobytes += int(values[0])
    return 1024 * kilobytes
