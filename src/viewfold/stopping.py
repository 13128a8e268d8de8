"""How long work is asked to stop: Ctrl-C, SIGTERM (spot machines, SLURM) and SIGHUP end it after the step that runs.

Knows signals, and nothing of what is trained or lifted.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """The signal that asked for a stop, 0 as long as none did."""

    signum: int = 0

    def __bool__(self) -> bool:
        return self.signum != 0


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Yield what a signal sets, so that no step is cut in half; a second Ctrl-C acts as it did before.

    SIGTERM often comes twice (from SLURM and, passed on, from torchrun), so that a second one changes nothing.  Signals
    that are ignored (SIGHUP under nohup) stay ignored.  Only the main thread can listen.
    """
    request, before = StopRequest(), {}
    if threading.current_thread() is threading.main_thread():
        before = {s: h for s in SIGNALS if (h := signal.getsignal(s)) is not signal.SIG_IGN and h is not None}

    def ask(number: int, frame: Any) -> None:
        request.signum = number
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
