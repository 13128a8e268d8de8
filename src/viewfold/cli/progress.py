"""Progress bars with the time that is left, on the error stream so that results can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from viewfold.cli.start import collect_again

Report = Callable[[str, int, int], None]
"""(stage, steps done, steps in all): what long work calls as it goes on; a new stage starts a new bar."""


SPEED_S = 3600.0
"""Time over which a bar's speed is measured: rich's own half minute knows no speed of steps that take longer."""


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
    bars, tasks = Progress(*columns, console=Console(stderr=True), speed_estimate_period=SPEED_S), {}
    collect_again()

    def report(stage: str, done: int, total: int | None) -> None:  # None: nobody has counted
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


@contextmanager
def training_bar(*, shown: bool = True) -> Iterator[Callable[[Any], None]]:
    """Yield what draws a `training.monitor.Status`: share, loss, speed, waiting, memory and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left {task.fields[left]}"),
    )
    bar, task = Progress(*columns, console=Console(stderr=True), disable=not shown), None
    collect_again()

    def report(status: Any) -> None:
        nonlocal task
        note = f"loss {status.scalars['loss']:.4f}  {status.samples_per_s:.1f} samples/s  waits {status.waiting:.0%}"
        note += f"  {status.memory_mib} MiB" if status.memory_mib is not None else ""
        minutes, seconds = divmod(round(status.left_s), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        if task is None:
            bar.start()
            task = bar.add_task("train", total=status.steps, note=note, left=left)
        bar.update(task, completed=status.step, total=status.steps, note=note, left=left)

    try:
        yield report
    finally:
        if task is not None:
            bar.stop()
