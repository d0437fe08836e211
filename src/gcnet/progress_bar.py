"""Progress bar on a terminal; nothing where the output goes to a file or a pipe."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, total: int, *, shown: bool = True) -> Generator[Callable[[int], None]]:
    """A bar on standard error; the function it yields takes the number of images that were done since its last call."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda images: bar.update(task, advance=images)
