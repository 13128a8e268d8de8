"""Damage small valid models in every way that we could think of, and load what comes out.

    python tests/fuzz_loader.py --minutes 10 --seed 0

A case is a file (safetensors, PyTorch's zip, PyTorch's former format) or a whole folder, one to four mutations of it
drawn from the case's number, and a load.  It may succeed or raise a `ViewfoldError`.  Anything else is a finding:
another exception, a crash, 20 s of CPU time, 3 minutes of waiting, 3 GiB of address space beyond the start, a program
started, a connection made, or a file opened for writing.  `test_hostile.py` runs a few hundred cases of it.
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
from fakes import tiny_model
from safetensors.torch import load_file, save_file

from viewfold.errors import ViewfoldError
from viewfold.pipeline import MultiViewPipeline
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.original import split, unet_from_original

CPU_S, WALL_S, SPARE_BYTES, CASES_A_CHILD = 20, 180, 3 * 2**30, 400

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove")


def samples(folder: Path) -> list[Path]:
    """Write one valid model of each kind."""
    stored = load_file(Path(__file__).parent / "parity" / "unet_small.safetensors")
    tensors = {k.removeprefix("weights."): v for k, v in stored.items() if k.startswith("weights.")}
    few = {name: torch.randn(2, 3) for name in ("model.diffusion_model.a", "model.diffusion_model.b")}
    save_file(tensors, folder / "unet.safetensors")
    save_file(few, folder / "few.safetensors")
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "unet.pt")
    torch.save({"state_dict": few, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}}, folder / "few.pt")
    torch.save(few, folder / "former.pt", _use_new_zipfile_serialization=False)
    tiny_model(folder / "folder")
    return sorted(path for path in folder.iterdir())


def prepare(case: int, sources: list[Path], scratch: Path) -> Path:
    """Write the damaged model of a case and return where it is."""
    rng = random.Random(case)
    source = rng.choice(sources)
    path = scratch / source.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    for _ in range(rng.choice([1, 1, 2, 4])):
        damage_folder(path, rng) if path.is_dir() else damage_file(path, rng)
    return path


def load(path: Path) -> str:
    """Load as the package does and say how far it came; anything but a `ViewfoldError` is a finding, and raised."""
    came = "refused"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.is_dir():
                MultiViewPipeline.from_pretrained(path)
            else:
                tensors = read_checkpoint(path)
                came = "read"
                unet_from_original(split(tensors)["unet"], head_channels=8)
            came = "loaded"
    except ViewfoldError as error:
        str(error).encode("utf-8", "backslashreplace")
    return f"{path.name} {came}"


def watch(findings: list[str]) -> None:
    """Note what no load may do."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in FORBIDDEN or (writes and str(arguments[0]) != os.devnull):
            findings.append(f"{event}{arguments!r:.300}")

    sys.addaudithook(hook)


def run(first: int, sources: list[Path], scratch: Path, until: float, pipe: int) -> None:
    """Run cases in this process until time or number is up; the process is the case's if it dies."""

    def tell(line: str) -> None:
        os.write(pipe, f"{line}\n".encode("utf-8", "replace"))

    findings: list[str] = []
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(scratch)
    for case in range(first, first + CASES_A_CHILD):
        if time.time() > until:
            break
        path = prepare(case, sources, Path(tempfile.mkdtemp(dir=scratch)))
        if case == first:
            watch(findings)
        tell(f"{case} {path.name}")
        findings.clear()
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        signal.alarm(WALL_S)
        try:
            outcome = load(path)
        except BaseException as error:  # that is what we are here for
            outcome = f"FINDING {type(error).__name__}: {error!s:.300}\n{traceback.format_exc()[-2500:]}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        outcome = f"FINDING {findings[0]}" if findings else outcome
        tell(f"= {outcome}".replace("\n", "\\n"))
        shutil.rmtree(path.parent)


def main() -> int:
    """Run cases in children, one after another, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    until, case = time.time() + 60 * options.minutes, options.seed * 10**9
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as home:
        scratch, good = Path(home, "scratch"), Path(home, "good")
        scratch.mkdir(), good.mkdir()
        sources = samples(good)
        for path in sources:
            load(path)  # imports what loading imports
        while time.time() < until:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    run(case, sources, scratch, until, writer)
                    os._exit(0)
                except BaseException:  # a mistake of this program, not of a load
                    traceback.print_exc()
                finally:
                    os._exit(1)
            os.close(writer)
            last = ""
            for line in os.fdopen(reader, errors="replace"):
                if line.startswith("= "):
                    outcomes[line[2:].strip() if "FINDING" not in line else "FINDING"] += 1
                    if "FINDING" in line:
                        print(last, line.replace("\\n", "\n"), flush=True)
                else:
                    last, case = line.strip(), int(line.split()[0]) + 1
            status = os.waitpid(child, 0)[1]
            if status:
                outcomes["FINDING"] += 1
                print(f"{last} FINDING: the process died, {status=}", flush=True)
                case += 1
    print(f"{outcomes.total()} cases in {options.minutes} minutes: {dict(outcomes.most_common())}", flush=True)
    return bool(outcomes["FINDING"])


if __name__ == "__main__":
    sys.exit(main())
