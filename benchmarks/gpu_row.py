"""The rows that `gpu.py` leaves: one line of JSON a measurement, written at once, and the table made of them.

    {"stage", "case", "ok", "seconds", "figures", "error", "device", "card", "driver", "torch", "commit", "tiny", "at"}

`seconds` is the wall time of the whole case, `figures` what it measured (names end in their unit), `error` why there
is none.  Knows no network and needs nothing but Python.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FACTS = ("device", "card", "driver", "torch", "commit", "tiny")
FIELDS = ("stage", "case", "ok", "seconds", "figures", "error", *FACTS, "at")


def facts(device: str, *, tiny: bool, data: Path) -> dict[str, Any]:
    """Return what stands in every row: where it was measured, and of what."""
    card, driver = _ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").partition(", ")[::2]
    if not device.startswith("cuda"):
        card, driver = f"{_processor()}, {os.environ.get('OMP_NUM_THREADS') or os.cpu_count()} threads", "none"
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "none"
    found = {"card": card.split("\n")[0], "driver": driver.split("\n")[0], "torch": torch, "commit": _commit(data)}
    return {"device": device, **{name: value or "unknown" for name, value in found.items()}, "tiny": tiny}


def _commit(data: Path) -> str:
    """Return the commit, or where there is no repository what $COMMIT or the packed data say."""
    noted = data / "commit"
    packed = noted.read_text().strip() if noted.is_file() else ""
    return _ask("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") or os.environ.get("COMMIT", "") or packed


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


class Rows:
    """Appends rows to a file, each on the disk before the next is measured."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts, self.failed = path, facts, False
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, stage: str, case: str, *, seconds: float, figures: Mapping[str, Any], error: str = "") -> None:
        """Append a row."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        row = {"stage": stage, "case": case, "ok": not error, "seconds": round(max(seconds, 1e-4), 4),
               "figures": dict(figures), "error": error, **self.facts, "at": at}  # fmt: skip
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"[{stage}] {case}: {error or describe(row['figures'])} ({seconds:.1f} s)", flush=True)

    @contextmanager
    def case(self, stage: str, case: str) -> Iterator[dict[str, Any]]:
        """Yield the figures to fill in; write them, or why they could not be measured, and go on."""
        figures: dict[str, Any] = {}
        started, error = time.perf_counter(), ""
        try:
            yield figures
        except Exception as reason:  # whatever it was: the other cases are measured all the same
            error = f"{type(reason).__name__}: {' '.join(str(reason).split())[:300]}"
            self.failed = True
        self.write(stage, case, seconds=time.perf_counter() - started, figures=figures, error=error)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as benchmarks/GPU.md has them."""
    lines = ["| stage | case | figures | card | driver | torch | commit |", "|---" * 7 + "|"]
    for row in rows:
        found = describe(row["figures"])
        found = f"FAILED: {row['error']}" + (f" ({found})" if row["figures"] else "") if row["error"] else found
        card = f"{row['card']} (tiny networks)" if row["tiny"] else row["card"]
        cells = row["stage"], row["case"], found, card, row["driver"], row["torch"], row["commit"]
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def describe(figures: Mapping[str, Any]) -> str:
    """Return figures in one line."""
    return ", ".join(f"{name} {_short(value)}" for name, value in figures.items()) or "passed"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value}"
