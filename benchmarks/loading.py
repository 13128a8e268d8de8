"""Packing and reading shards beside plain webdataset, and a step of training with latents in memory and on the disk.

    python benchmarks/loading.py [--samples 4000] [--assets 60] [--rounds 3] [--step-ms 160]

First table: the same renders into shards.  webdataset's writer copies files; ours decodes every picture, so that
damage is found here, hashes it, notes it in the manifest, and waits for the disk.  Packing again finds nothing new.

Second table: samples a second and CPU time a sample, latents and captions of the same shards, the ways taking turns, so
that ratios are those of a round.  webdataset reads whole shards from front to back and shuffles within a buffer; ours
draws any sample at random and reads four of its views.  `webdataset, latents alone` leaves captions and cameras unread.

Third table: what share of a step waits for its batch (as `viewfold train` prints it), with 192 objects a step; the
network is a wait of --step-ms, as a GPU is for the host, or that much work of Python's own, which holds the
interpreter as the launching of many small kernels does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewfold.camera import Cameras
from viewfold.evaluation.report import markdown_table

VIEWS, SHAPE, BATCH, PER_SHARD = 8, (8, 8, 8), 192, 512
"""As the shipped model has them."""


def main() -> None:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--assets", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--step-ms", type=float, default=160.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        print(packing(Path(folder), options.assets, options.rounds))
        shards = write(Path(folder) / "shards", options.samples)
        started = time.process_time()
        from viewfold.data.batches import LatentSet

        latents = LatentSet(shards, views=4)
        spent = time.process_time() - started
        print(f"looking {len(latents)} samples through once: {1e6 * spent / len(latents):.0f} CPU-us a sample")
        print(reading(shards, latents, options))
        print(waiting(latents, options))


def packing(folder: Path, assets: int, rounds: int) -> str:
    """Return the table of ways to pack the same renders."""
    from viewfold.data.assets import write_assets
    from viewfold.data.packing import pack
    from viewfold.data.render import render_assets

    write_assets(folder / "assets", count=assets)
    render_assets(folder / "assets", folder / "renders")
    n_views = len(list((folder / "renders").glob("*/*.webp")))
    ways: dict[str, Callable[[int], object]] = {
        "ours": lambda number: pack(folder / "renders", folder / f"ours-{number}"),
        "ours, packed again": lambda number: pack(folder / "renders", folder / f"ours-{number}"),
        "webdataset's writer": lambda number: copy(folder / "renders", folder / f"theirs-{number}.tar"),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, work in ways.items():
            started = time.process_time()
            work(number)
            spent[name].append(1e6 * (time.process_time() - started) / n_views)
    rows = []
    for name in ways:
        ratios = [one / base for one, base in zip(spent[name], spent["webdataset's writer"], strict=True)]
        rows.append([name, f"{statistics.median(spent[name]):.0f}", f"{statistics.median(ratios):.2f}"])
    return markdown_table([f"{n_views} views of 64 px", "CPU-us a view", "beside webdataset"], rows)


def copy(renders: Path, tar: Path) -> None:
    """Write renders with webdataset, as they are."""
    import webdataset

    library: Any = webdataset
    with library.TarWriter(str(tar)) as sink:
        for folder in sorted(path.parent for path in renders.glob("*/meta.json")):
            views = {path.name: path.read_bytes() for path in sorted(folder.glob("*.webp"))}
            sink.write({"__key__": folder.name, "json": (folder / "meta.json").read_bytes(), **views})


def write(folder: Path, samples: int) -> Path:
    """Write shards of objects with latents, captions and poses, as `pack` does."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    poses = Cameras.orbit(VIEWS).world_from_camera.flatten(1).tolist()
    views = [{"world_from_camera": pose, "fov_deg": 40.0} for pose in poses]
    for first in range(0, samples, PER_SHARD):
        with tarfile.open(folder / f"shard-{first // PER_SHARD:05d}.tar", "w") as tar:
            for number in range(first, min(first + PER_SHARD, samples)):
                buffer = io.BytesIO()
                np.save(buffer, rng.standard_normal((VIEWS, *SHAPE)).astype(np.float16))
                meta = {"captions": [f"a red mug {n}" for n in range(12)], "views": views, "render": {"orbits": 2}}
                for suffix, content in (("json", json.dumps(meta).encode()), ("latents.npy", buffer.getvalue())):
                    member = tarfile.TarInfo(f"object{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def reading(shards: Path, latents: Any, options: argparse.Namespace) -> str:
    """Return the table of ways to read."""
    ways: dict[str, Callable[[], int]] = {
        "ours, drawn at random": lambda: ours(latents, options.samples),
        "webdataset": lambda: theirs(shards),
        "webdataset, latents alone": lambda: theirs(shards, only="latents.npy"),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, read in ways.items():
            started, spent = time.perf_counter(), time.process_time()
            count = read()
            wall[name].append(count / (time.perf_counter() - started))
            cpu[name].append(1e6 * (time.process_time() - spent) / count)
    rows = []
    for name in ways:
        ratios = [one / base for one, base in zip(cpu[name], cpu["webdataset"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, f"{statistics.median(wall[name]):.0f}", f"{statistics.median(cpu[name]):.0f}", spread])
    return markdown_table(["", "samples/s", "CPU-us a sample", "CPU beside webdataset"], rows)


def ours(latents: Any, samples: int) -> int:
    """Draw so many samples in batches."""
    for step in range(samples // BATCH):
        latents.draw(BATCH, torch.Generator().manual_seed(step), views=4)
    return samples // BATCH * BATCH


def theirs(shards: Path, *, only: str | None = None) -> int:
    """Read and decode every sample with webdataset, shuffled, in batches."""
    import webdataset

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    options = {} if only is None else {"select_files": lambda name: name.endswith(only)}
    library: Any = webdataset
    reader = library.WebDataset(urls, shardshuffle=False, empty_check=False, **options).shuffle(1000).decode()
    count, batch = 0, []
    for sample in reader:
        batch.append(torch.from_numpy(sample["latents.npy"][:4]))
        count += 1
        if len(batch) == BATCH:
            torch.stack(batch).float()
            batch = []
    return count


class InMemory:
    """The same draws from tensors in memory, one after the other, as they were before shards were read in place."""

    def __init__(self, shards: Path) -> None:
        from viewfold.data.shards import open_shards

        samples = open_shards(shards)
        self.latents = [sample.latents().half() for sample in samples]
        self.captions = [sample.meta["captions"] for sample in samples]
        self.cameras = [sample.cameras for sample in samples]

    def draw(self, n: int, generator: torch.Generator, *, views: int) -> Any:
        """Draw `n` samples, `views` of one of the two circles of each."""
        from viewfold.data.batches import Batch

        latents, captions, cameras = [], [], []
        for index in torch.randint(len(self.latents), (n,), generator=generator).tolist():
            captions.append(self.captions[index][int(torch.randint(12, (), generator=generator))])
            orbit = int(torch.randint(2, (), generator=generator))
            torch.randint(1, (), generator=generator)
            chosen = [orbit * views + view for view in range(views)]
            latents.append(self.latents[index][chosen].float())
            own = self.cameras[index]
            assert own is not None
            cameras.append(own[chosen])
        return Batch(latents=torch.stack(latents), captions=captions, cameras=Cameras.cat(cameras))


def waiting(latents: Any, options: argparse.Namespace) -> str:
    """Return the table of what a step waits for."""
    memory = InMemory(Path(latents.catalogs[0].folder))
    one = latents.draw(BATCH, torch.Generator().manual_seed(0), views=4)
    assert torch.equal(one.latents, memory.draw(BATCH, torch.Generator().manual_seed(0), views=4).latents)
    rows = []
    for busy in (False, True):
        for name, source, ahead in (
            ("in memory, drawn when asked for", memory, 0),
            ("on the disk, drawn when asked for", latents, 0),
            ("on the disk, read ahead", latents, 3),
        ):
            found = [step_of(source, ahead, options, busy=busy) for _ in range(options.rounds)]
            share, seconds = (statistics.median(values) for values in zip(*found, strict=True))
            kind = "Python's own work" if busy else "a wait, as for a GPU"
            rows.append([name, kind, f"{share:.1%}", f"{1e3 * seconds:.1f}"])
    return markdown_table(["latents", "the network", "waits for data", "ms a step"], rows)


def step_of(source: Any, ahead: int, options: argparse.Namespace, *, busy: bool) -> tuple[float, float]:
    """Return the share of waiting, and the seconds, of a step of the training loop itself."""
    from viewfold.training.loop import fit
    from viewfold.training.settings import LoopSettings

    network = torch.nn.Linear(8, 1)

    def loss(batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if busy:
            until = time.thread_time() + options.step_ms / 1e3
            while time.thread_time() < until:
                network.weight.detach().add(0)
        else:
            time.sleep(options.step_ms / 1e3)
        return {"loss": network(batch.latents.mean(dim=(1, 3, 4))).square().mean()}

    settings = LoopSettings(steps=options.steps, precision="fp32", optimizer="adamw", read_ahead=ahead, warmup=0)
    with tempfile.TemporaryDirectory() as folder:
        report = fit(
            network, lambda step, generator: source.draw(BATCH, generator, views=4), loss, folder, settings=settings,
            samples=BATCH,
        ).report  # fmt: skip
    return report["waiting_for_data"], BATCH / report["samples_per_s"]


if __name__ == "__main__":
    sys.exit(main())
