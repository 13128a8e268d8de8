"""`fuzz.py` itself: whatever a reader does wrong is counted, kept, and read again by the command that it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
import fuzz
from fuzz_kinds import Kind
from viewfold.errors import AssetError

def read(path):
    match sum(path.read_bytes()) % 5:
        case 0: raise KeyError(path.name)
        case 1: os.kill(os.getpid(), signal.SIGSEGV)
        case 2: bytearray(2**35)
        case 3: path.with_name("b").write_bytes(b"x")
        case 4: raise AssetError("no")
    return "loaded"

write = lambda folder: (folder / "a").write_bytes(b"abc")
fuzz.KINDS = {"bad": Kind(write, lambda path: "loaded" if path.read_bytes() == b"abc" else read(path))}
fuzz.CASES_A_CHILD = 5
sys.exit(fuzz.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of a child by /proc")
def test_what_a_reader_does_wrong_is_found_kept_and_repeated(tmp_path: Path) -> None:
    here, kept = Path(__file__).parent, tmp_path / "kept"
    (tmp_path / "run.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": f"{here.parent / 'src'}:{here}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "run.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    done = run("--minutes", "0.05", "--keep", str(kept))
    assert done.returncode == 1, done.stderr
    for finding in ("KeyError: 'a'", "the process died, status=11", "MemoryError", "open("):
        assert f"FINDING {finding}" in done.stdout or f"FINDING: {finding}" in done.stdout, finding
    assert "refused" in done.stdout.splitlines()[-3], "the table"
    commands = [line.split() for line in done.stdout.splitlines() if line.startswith("again: ")]
    assert len(commands) == done.stdout.count(" FINDING") - 1, "but for the table's"
    at = next(i for i, line in enumerate(done.stdout.splitlines()) if "KeyError: 'a'" in line)
    again = next(line.split() for line in done.stdout.splitlines()[at:] if line.startswith("again: "))
    assert again[-3:-1] == ["--read", "bad"] and Path(again[-1]).parent.parent == kept
    repeated = run(*again[-3:])
    assert repeated.returncode == 1 and repeated.stderr.rstrip().endswith("KeyError: 'a'")
