"""Progress bars with the time that is left, on the error stream so that results can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]
"""(stage, steps done, steps in all): what long work calls as it goes on; a new stage starts a new bar."""


@contextmanager
def progress_bars(*, of_bytes: bool = False) -> Iterator[Report]:
    """Yield a `Report` that draws one bar per stage: share, steps (or bytes and speed), time spent and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        *((DownloadColumn(binary_units=True), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars, tasks = Progress(*columns, console=Console(stderr=True)), {}

    def report(stage: str, done: int, total: int) -> None:
        bars.start()  # not before there is something to show: it would leave an empty line above a message
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


def stage(report: Report, name: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) for work that has one stage."""
    return lambda done, total: report(name, done, total)
