"""Prints log records of the library: information unchanged, warnings as notes."""

import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from gcnet.arguments import Argument
from gcnet.cli.wording import with_flags
from gcnet.errors import printable


class _Printer(logging.Handler):
    """Prints records to the standard error of the moment, without control characters and with flags for arguments."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        super().__init__()
        self._arguments = arguments

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(with_flags(record.getMessage(), self._arguments))
        with suppress(OSError):
            print(f"gcnet: note: {text}" if record.levelno >= logging.WARNING else text, file=sys.stderr)


@contextmanager
def printed_messages(arguments: Sequence[Argument] = ()) -> Generator[None]:
    """Print the messages of the library while the context lasts, with flags for the `arguments` of the command."""
    logger, handler = logging.getLogger("gcnet"), _Printer(arguments)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
