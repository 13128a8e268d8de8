"""Damage small valid files of every kind in every way that we could think of, and read what comes out.

    python tests/fuzz.py --minutes 10 --seed 0 [--kinds meshes shards ...] [--keep FOLDER]
    python tests/fuzz.py --read KIND PATH

A case is a file or a folder of a kind (`fuzz_kinds.KINDS`: models, meshes, cameras, shards, pictures, galleries,
captions, tokenizers, LoRA, splats), one to four mutations drawn from the case's number, and a read.  It may succeed or
raise a `ViewfoldError`.  Anything else is a finding: another exception, a crash, 20 s of CPU time, 3 minutes of
waiting, 3 GiB of address space beyond the start, a program started, a connection made, or a file opened for writing
(but for the kinds that keep tables of their own).  A finding's file is kept, and the command that reads it again is
printed.  `test_hostile.py` runs some of it.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from damage import damage_file, damage_folder
from fuzz_kinds import KINDS

from viewfold.errors import ViewfoldError
from viewfold.evaluation.report import markdown_table

CPU_S, WALL_S, SPARE_BYTES, CASES_A_CHILD = 20, 180, 3 * 2**30, 400

WRITING = {"shards"}
"""Kinds whose reading keeps tables."""

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove")


def samples(kind: str, folder: Path) -> list[Path]:
    """Write valid files, or folders, of a kind into a new folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    KINDS[kind].write(folder)
    return sorted(folder.iterdir())


def prepare(case: int, sources: dict[str, list[Path]], scratch: Path) -> tuple[str, Path]:
    """Write the damaged file or folder of a case; return its kind and where it is."""
    rng = random.Random(case)
    kind = rng.choice(sorted(sources))
    source = rng.choice(sources[kind])
    path = scratch / source.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    for _ in range(rng.choice([1, 1, 2, 4])):
        damage_folder(path, rng) if path.is_dir() else damage_file(path, rng)
    return kind, path


def read(kind: str, path: Path) -> str:
    """Read as the package does and say how far it came; anything but a `ViewfoldError` is a finding, and raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return KINDS[kind].read(path)
    except ViewfoldError as error:
        str(error).encode("utf-8", "backslashreplace")
        return "refused"


def watch(findings: list[str]) -> None:
    """Note what no load may do."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in FORBIDDEN or (writes and str(arguments[0]) != os.devnull):
            findings.append(f"{event}{arguments!r:.300}")

    sys.addaudithook(hook)


def bound_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def bound_time() -> None:
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.alarm(WALL_S)


def keep(case: int, sources: dict[str, list[Path]], folder: Path) -> None:
    """Write the damaged file of a finding into a folder, and print what reads it again."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, path = prepare(case, sources, Path(tempfile.mkdtemp(prefix=f"{case}-", dir=folder)))
    print(f"again: {sys.executable} {Path(__file__).resolve()} --read {kind} {path}\n", flush=True)


def run(first: int, sources: dict[str, list[Path]], scratch: Path, until: float, pipe: int) -> None:
    """Run cases in this process until time or number is up; the process is the case's if it dies."""

    def tell(line: str) -> None:
        os.write(pipe, f"{line}\n".encode("utf-8", "replace"))

    findings: list[str] = []
    bound_memory()
    os.chdir(scratch)
    for case in range(first, first + CASES_A_CHILD):
        if time.time() > until:
            break
        kind, path = prepare(case, sources, Path(tempfile.mkdtemp(dir=scratch)))
        if case == first:
            watch(findings)
        tell(f"{case} {kind} {path.name}")
        findings.clear()
        bound_time()
        try:
            outcome = f"{kind} {read(kind, path)}"
        except BaseException as error:  # that is what we are here for
            outcome = f"FINDING {type(error).__name__}: {error!s:.300}\n{traceback.format_exc()[-2500:]}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        outcome = f"FINDING {findings[0]}" if findings and kind not in WRITING else outcome
        tell(f"= {outcome}".replace("\n", "\\n"))
        shutil.rmtree(path.parent)


def main() -> int:
    """Run cases in children, one after another, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for the files of findings; by default viewfold-fuzz-SEED among the temporary ones",
    )
    parser.add_argument("--read", nargs=2, metavar=("KIND", "PATH"), help="read this one alone, in this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not outlive a fork
    if options.read is not None:
        bound_memory()
        bound_time()
        print(KINDS[options.read[0]].read(Path(options.read[1]).resolve()))
        return 0
    kept = (options.keep or Path(tempfile.gettempdir(), f"viewfold-fuzz-{options.seed}")).resolve()
    until, case = time.time() + 60 * options.minutes, options.seed * 10**9
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as home:
        scratch = Path(home, "scratch")
        scratch.mkdir()
        os.environ["XDG_CACHE_HOME"] = home
        sources = {kind: samples(kind, Path(home, "good", kind)) for kind in options.kinds}
        for kind, paths in sources.items():
            for path in paths:
                assert read(kind, path) != "refused", f"{path} is not valid to begin with"
        while time.time() < until:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    run(case, sources, scratch, until, writer)
                    os._exit(0)
                except BaseException:  # a mistake of this program, not of a read
                    traceback.print_exc()
                finally:
                    os._exit(1)
            os.close(writer)
            last = ""
            for line in os.fdopen(reader, errors="replace"):
                if line.startswith("= "):
                    outcomes[line[2:].strip() if "FINDING" not in line else f"{last.split()[1]} FINDING"] += 1
                    if "FINDING" in line:
                        print(last, line.replace("\\n", "\n"), flush=True)
                        keep(int(last.split()[0]), sources, kept)
                else:
                    last, case = line.strip(), int(line.split()[0]) + 1
            status = os.waitpid(child, 0)[1]
            if status:
                outcomes[f"{(last.split() or ['', 'no'])[1]} FINDING"] += 1
                print(f"{last} FINDING: the process died, {status=}", flush=True)
                if last:
                    keep(int(last.split()[0]), sources, kept)
                case += 1  # it may have died of the next one, before it could say so
    return report(outcomes, options.minutes)


def report(outcomes: Counter[str], minutes: float) -> int:
    """Print a table, a row a kind; return whether there was a finding."""
    columns = sorted({outcome.split()[1] for outcome in outcomes})
    rows = [[k, *(str(outcomes[f"{k} {c}"]) for c in columns)] for k in sorted({o.split()[0] for o in outcomes})]
    print(markdown_table([f"{outcomes.total()} cases in {minutes:g} minutes", *columns], rows), flush=True)
    return int(any(outcome.endswith("FINDING") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
