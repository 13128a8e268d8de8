"""What the server reads of a running job's journal; the worker writes it (`journal`)."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRESS, PREVIEW = "progress.json", "preview.webp"


def read_progress(folder: Path) -> dict[str, Any] | None:
    """Return what a job's journal says, if it says something."""
    with suppress(OSError, ValueError):
        return json.loads((folder / PROGRESS).read_bytes())
    return None


def clear(folder: Path) -> None:
    """Take away what a journal left."""
    for name in (PROGRESS, PREVIEW):
        (folder / name).unlink(missing_ok=True)
