"""What `gpu.sh` carries to a machine without a network: wheels that it lacks, and toys as latents.

    benchmarks/gpu.sh --pack [--objects 400] [--pictures 400] [--whole] [--python 3.12]
    python benchmarks/gpu_pack.py --missing        names of packages that this Python lacks

Wheels are those of constraints.txt for Linux on x86-64, never PyTorch.  By default only such that a machine with
PyTorch and transformers tends to lack (10 MB); `--whole` takes all that viewfold needs (about 110 MB).  The data are
new toys, and some pictures for the 2D half, without pixels (13 kB a toy).  What is there already is kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from gpu_row import ROOT

HERE = Path(__file__).resolve().parent
RARE = ("diffusers", "importlib_metadata", "zipp", "trimesh", "xatlas", "fast_simplification", "webdataset",
        "braceexpand", "tyro", "docstring_parser", "typeguard", "jaxtyping", "wadler_lindig", "beartype")  # fmt: skip
"""What a machine with PyTorch and transformers tends to lack."""
TESTED_WITH = ("beartype", "pytest", "webdataset")
"""What the tests need besides."""
CLOSURE = "needs.txt"
"""In the folder of wheels: their names, so that what the wheels need is not forgotten there."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64",
             "manylinux1_x86_64"]  # fmt: skip
FIRST_SEED, FIRST_HELD_OUT = 100_000, 900_000
"""Of the toys: others than the shipped model has seen."""


def plain(name: str) -> str:
    """Return a package's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> dict[str, str]:
    """Return what viewfold and its tests import, and the least version of each ("" for any)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tests = [line for line in project["optional-dependencies"]["dev"] if re.match(r"[\w-]+", line)[0] in TESTED_WITH]  # type: ignore[index]
    found = {}
    for line in [*project["dependencies"], *tests]:
        name, least = re.match(r"([\w.-]+)(?:>=([\d.]+))?", line).groups()  # type: ignore[union-attr]
        found[plain(name)] = least or ""
    return found


def missing(wheels: Path) -> list[str]:
    """Return the packages that this Python lacks, or has too old, and what the wheels of those need."""
    needs = wanted()
    listed = wheels / CLOSURE
    needs |= {plain(name): "" for name in (listed.read_text().split() if listed.is_file() else ())} | needs
    found = {name: _installed(name) for name in needs if name != "torch"}
    return sorted(
        name for name, version in found.items() if version is None or _numbers(version) < _numbers(needs[name])
    )


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def pinned() -> dict[str, str]:
    """Return the versions of constraints.txt; packages beyond it as they are installed here."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {plain(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    return {plain(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()} | found


def closure(names: set[str]) -> set[str]:
    """Return packages and all that they need, by what is installed here; neither PyTorch nor its own needs."""
    done: set[str] = set()
    queue = set(names)
    while queue:
        name = queue.pop()
        if name in done or name == "torch" or _installed(name) is None:
            continue
        done.add(name)
        lines = [line for line in importlib.metadata.requires(name) or () if "extra ==" not in line]
        queue |= {plain(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]
    return done


def pack_wheels(folder: Path, *, python: str, whole: bool) -> None:
    """Download the wheels and note their names."""
    names = closure(set(wanted())) if whole else {plain(name) for name in RARE}
    versions = pinned()
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms,
               "-d", str(folder), *(f"{name}=={versions[name]}" for name in sorted(names))]  # fmt: skip
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    (folder / CLOSURE).write_text("\n".join(sorted(names)) + "\n")


def pack_data(folder: Path, *, objects: int, pictures: int) -> None:
    """Make toys, render them, read them with the shipped autoencoder, and keep latents, cameras and captions."""
    from viewfold.data.assets import write_assets
    from viewfold.data.render import render_assets

    for name, seed, count in (("objects", FIRST_SEED, objects), ("held-out", FIRST_HELD_OUT, 64)):
        if not (folder / name).is_dir():
            with tempfile.TemporaryDirectory() as place:
                assets, renders = Path(place) / "assets", Path(place) / "renders"
                write_assets(assets, count=min(count, objects), seed=seed, held_out=name == "held-out")
                render_assets(assets, renders)
                keep_latents(renders, folder / name)
    if pictures and not (folder / "pictures").is_dir():
        with tempfile.TemporaryDirectory() as place:
            try:
                emoji(Path(place), pictures)
            except (SystemExit, OSError, subprocess.CalledProcessError) as error:
                print(f"no pictures for the 2D half ({error}): training will do without", file=sys.stderr)
            else:
                keep_latents(Path(place) / "renders", folder / "pictures")
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    (folder / "commit").write_text(commit.stdout)


def emoji(place: Path, count: int) -> None:
    """Fetch pictures as the recipe of the shipped model does, and take some, evenly."""
    sys.path.append(str(ROOT / "recipes"))
    from pictures import fetch  # pyright: ignore[reportMissingImports]

    from viewfold.data.pictures import emoji_name, import_emoji
    from viewfold.data.toybox import RESERVED

    files = [path for path in sorted(fetch(place).rglob("*.webp")) if emoji_name(path.stem)]
    chosen = place / "chosen"
    chosen.mkdir()
    for path in files[:: max(1, len(files) // count)][:count]:
        path.rename(chosen / path.name)
    import_emoji(chosen, place / "renders", without=frozenset(RESERVED))


def keep_latents(renders: Path, target: Path) -> None:
    """Pack renders with their latents and leave the pixels out."""
    import torch

    from viewfold.data.latents import cache_latents
    from viewfold.data.packing import pack
    from viewfold.model.weights_hash import hash_tensors
    from viewfold.pipeline import load

    model = load("toybox", device="cpu", dtype=torch.float32)
    encoder = hash_tensors(sorted(model.vae.state_dict().items())).hexdigest()
    whole = renders.parent / "shards"
    pack(renders, whole)
    cache_latents(whole, model.encode, encoder=encoder)
    target.mkdir(parents=True)
    for shard in sorted(whole.glob("*.tar")):
        with tarfile.open(shard) as source:
            source.next()
            with tarfile.open(target / shard.name, "w", pax_headers=source.pax_headers) as slim:
                for member in source:
                    if not member.name.endswith(".webp"):
                        member.pax_headers = {}
                        slim.addfile(member, source.extractfile(member))


def sizes(*folders: Path) -> Iterator[str]:
    """Say what each folder weighs."""
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        yield f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB"


def main() -> None:
    """Pack, or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=HERE / "wheels")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--whole", action="store_true", help="all wheels, for a machine with nothing but PyTorch")
    parser.add_argument("--missing", action="store_true")
    options = parser.parse_args()
    if options.missing:
        print(" ".join(missing(options.wheels)))
        return
    pack_wheels(options.wheels, python=options.python, whole=options.whole)
    print(*sizes(options.wheels), sep="\n", flush=True)
    pack_data(options.data, objects=options.objects, pictures=options.pictures)
    print(*sizes(options.data), sep="\n")


if __name__ == "__main__":
    main()
