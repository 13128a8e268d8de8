"""Put plausible mistakes into one module, one at a time, and say which of them the tests let through.

`scripts/mutate camera --sample 20 --seed 0`; docs/testing.md says what the figure means.  Nothing here is part of the
suite.  The mistakes are made in a copy of the tree and each is tested in a process of its own, forked from one that has
the large packages loaded already: a mutant costs what its tests cost, not what importing torch does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from mutants import Mutant, mutants

ROOT = Path(__file__).parents[1]
MODULE = "viewfold."
PRELOADED = ("torch", "diffusers", "transformers", "safetensors.torch", "scipy.ndimage", "scipy.sparse.csgraph")
PRELOADED += ("PIL.Image", "trimesh", "skimage.measure", "webdataset", "xatlas", "tyro", "rich.progress")

ALSO = {
    "weights.checkpoint": ("limits", "weights", "hostile"),
    "model.defaults": ("record", "released"),
    "picture": ("pixels", "image", "origin_hook"),
    "views": ("pixels", "image", "origin_hook"),
    "store.atomic": ("store", "store_processes", "pixels", "image"),
    "store.sync": ("store", "store_processes"),
    "store.temporary": ("store", "store_processes"),
    "store.mutex": ("store_processes",),
    "store.document": ("store_document",),
    "pipeline.multiview": ("pipeline", "anchors", "generation"),
    "diffusion.sampler": ("pipeline", "steps", "anchors"),
    "pipeline.generation": ("generation", "record", "anchors", "provenance", "origin_hook", "safety"),
    "origin.hook": ("origin_hook", "provenance", "safety", "record"),
    "origin.record": ("provenance", "origin_hook"),
    "pipeline.batch": ("batch", "generation", "safety"),
    "weights.components": ("generation", "hostile", "unet"),
    "pipeline.prompt_cache": ("weights_hash", "placement", "pipeline"),
    "model.weights_hash": ("generation", "placement", "lora"),
    "weights.network": ("weights", "hostile", "generation", "unet"),
    "pipeline.lora": ("lora",),
    "weights.lora": ("lora",),
    "model.text": ("text", "pipeline", "clip"),
    "weights.folder": ("limits", "hostile", "generation", "weights", "unet"),
    "model.attention": ("unet", "parity"),
    "model.condition": ("second_backbone", "weights_hash"),
    "model.backbone": ("second_backbone",),
    "weights.original": ("weights", "clip", "unet", "released"),
    "weights.keymap": ("weights", "released", "unet"),
    "weights.clip": ("clip", "released", "weights"),
    "weights.tokenizer": ("clip", "text", "released"),
    "scene.grid": ("field", "representation", "occupancy", "volume"),
    "scene.hashgrid": ("trilinear", "representation"),
    "scene.meshform": ("representation",),
    "scene.representation": ("representation",),
    "scene.sdf": ("representation",),
    "scene.soft": ("polish",),
    "scene.gaussian.projection": ("gaussians", "gaussian_cloud"),
    "scene.light": ("lamp", "rasterize"),
    "scene.rendering": ("rasterize", "lamp", "volume"),
    "scene.meshfile": ("mesh", "hostile"),
    "scene.interchange": ("mesh", "interchange", "export"),
    "lifting.stages": ("lift", "representation"),
    "lifting.fit": ("foreground", "lift", "representation", "prior"),
    "lifting.check": ("lift",),
    "lifting.distillation": ("distil", "from_blob", "lift", "representation", "prior", "lift_settings"),
    "lifting.guard": ("distil", "lift", "representation", "lift_settings"),
    "lifting.hull": ("foreground", "lift"),
    "lifting.keeping": ("lift_kept", "lift_resume"),
    "lifting.lens": ("foreground",),
    "lifting.light": ("paint", "retexture", "apart", "lift_light"),
    "lifting.observation": ("foreground", "lift"),
    "lifting.paint": ("retexture", "lift_light"),
    "lifting.photometric": ("alpha", "representation", "polish", "lift"),
    "lifting.studio": ("critic", "backdrop", "shading"),
    "lifting.viewpoint": ("studio", "critic"),
    "lifting.score": ("scores", "lift_settings"),
    "lifting.score.prediction": ("scores", "score"),
    "lifting.score.reconstruction": ("scores", "score"),
    "lifting.score.sds": ("scores", "score"),
    "lifting.score.inversion": ("scores",),
    "lifting.score.sdi": ("scores",),
    "lifting.score.ism": ("scores",),
    "lifting.score.asd": ("scores",),
    "lifting.score.variational": ("scores", "learner"),
    "model.lowrank": ("learner",),
    "evaluation.blind": ("blind_pairs",),
    "evaluation.case": ("page", "report"),
    "evaluation.encoder": ("encode_all",),
    "evaluation.findings": ("report",),
    "evaluation.matches": ("key_points",),
    "evaluation.page": ("report",),
    "evaluation.source": ("fidelity_command",),
    "evaluation.votes": ("blind",),
    "refit": ("refit_by_hand",),
}
"""Further files of tests (without `test_`) that a module answers to."""

OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
"""Of pytest; plugins that are loaded before it say so."""

PASSED, FAILED, NONE_COLLECTED = 0, "failed", 5


def answering(module: str) -> list[str]:
    """Return the files of tests that matter for a module: of its name and those listed, or those that import it."""
    package, _, name = (MODULE + module).rpartition(".")
    named = [ROOT / f"tests/test_{stem}.py" for stem in (name, *ALSO.get(module, ()))]
    found = [path for path in named if path.is_file()]
    if not found:
        imports = re.compile(rf"\b{re.escape(MODULE + module)}\b(?!\.)|from {re.escape(package)} import .*\b{name}\b")
        found = [p for p in sorted(ROOT.glob("tests/test_*.py")) if imports.search(p.read_text(encoding="utf-8"))]
    return [str(path.relative_to(ROOT)) for path in dict.fromkeys(found)]


def copy_tree(to: Path) -> None:
    """Copy what git knows and does not ignore, as it is now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run_tests(tree: Path, arguments: list[str], limit_s: float) -> int | str:
    """Return pytest's exit code on a tree, or FAILED where it ran past the limit or died."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        log = os.open(tree / "mutate.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree / "src")
        own = {ROOT / "src", ROOT / "tests"}
        sys.path[:] = [str(tree / "src"), *(entry for entry in sys.path if Path(entry).resolve() not in own)]
        for name in ("mutate", "mutants"):
            sys.modules.pop(name, None)
        code = 3
        try:
            import pytest

            code = int(pytest.main([*OPTIONS, *arguments]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else FAILED
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return FAILED


def choose(found: list[Mutant], n: int | None, seed: int) -> list[Mutant]:
    """Return `n` mutants of as many lines as there are, in the order of the file; None is all of them."""
    if n is None:
        return found
    chance = random.Random(seed)
    by_line: dict[int, list[Mutant]] = {}
    for mutant in found:
        by_line.setdefault(mutant.line, []).append(mutant)
    piles = list(by_line.values())
    chance.shuffle(piles)
    for pile in piles:
        chance.shuffle(pile)
    rounds = [pile[i] for i in range(max(map(len, piles), default=0)) for pile in piles if i < len(pile)]
    return sorted(rounds[:n], key=lambda mutant: mutant.line)


def preload() -> None:
    """Import once what every mutant would import again; never the package itself, which is the mutant's."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    assert not any(name.split(".")[0] == "viewfold" for name in sys.modules)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("module", help="below viewfold: camera, scene.mesh, src/viewfold/scene/mesh.py")
    parser.add_argument("tests", nargs="*", help="files of tests; by default those that matter for the module")
    parser.add_argument("--sample", type=int, help="how many; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="run slow tests as well")
    return parser.parse_args()


def main() -> int:
    given = parse()
    module = given.module.removesuffix(".py").removeprefix("src/").replace("/", ".").removeprefix(MODULE)
    path = Path("src", *(MODULE + module).split(".")).with_suffix(".py")
    tests = given.tests or answering(module)
    if not (ROOT / path).is_file() or not tests:
        print(f"`module` must be one below viewfold that tests are known of; got {given.module}.", file=sys.stderr)
        return 2
    arguments = [*tests, *([] if given.slow else ["-m", "not slow"])]
    chosen = choose(mutants((ROOT / path).read_text(encoding="utf-8"), ROOT / "src"), given.sample, given.seed)
    preload()
    tree = Path(tempfile.mkdtemp(prefix="viewfold-mutate-"))
    try:
        copy_tree(tree)
        started = time.monotonic()
        if run_tests(tree, arguments, 1200) != PASSED:
            print((tree / "mutate.log").read_text(), "\nThe tests must pass before anything is changed.", sep="")
            return 2
        took = time.monotonic() - started
        print(f"{path}: {len(chosen)} mutants, {' '.join(tests)}: {took:.1f} s as it is", flush=True)
        sys.dont_write_bytecode = True  # and the compiled file of the original must not be taken for a mutant's
        original, noticed = (tree / path).read_bytes(), 0
        for number, mutant in enumerate(chosen, start=1):
            (tree / path).write_bytes(mutant.source.encode())
            os.utime(tree / path, (time.time() + number, time.time() + number))
            code = run_tests(tree, arguments, 20 + 4 * took)
            if code == NONE_COLLECTED:
                raise SystemExit(f"No test was run: {' '.join(arguments)}")
            noticed += code != PASSED
            if code == PASSED:
                print(f"\n{path}:{mutant.line}\n- {mutant.before}\n+ {mutant.after}", flush=True)
        (tree / path).write_bytes(original)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    print(f"\n{path}: noticed {noticed} of {len(chosen)} (seed {given.seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
