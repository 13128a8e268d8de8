"""`viewfold evaluate --encoder`: how far a set of pictures is from true ones, and whether it shows its prompts."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewfold.cli.failures import fail_if_any
from viewfold.cli.model import chosen
from viewfold.cli.progress import Report, progress_bars
from viewfold.cli.report import refuse_beside
from viewfold.errors import AssetError, InputError
from viewfold.formats import READ_MESHES

if TYPE_CHECKING:
    from viewfold.cli.evaluate import Evaluate
    from viewfold.evaluation.alignment import Alignment
    from viewfold.evaluation.distribution import Statistics
    from viewfold.evaluation.encoder import Encoder
    from viewfold.evaluation.source import Shown, Skip

SHARD, LPIPS = ".tar", "lpips="


def print_fidelity(options: Evaluate, spec: str) -> None:
    """Print FID, KID, the inception score and CLIP's scores of all pictures under the paths, as far as they apply.

    Raises:
        AssetError: too few pictures can be used; or some cannot, and the others are measured all the same.
        InputError: options that contradict each other, or nothing can be measured with them.
    """
    from viewfold.evaluation.pretrained import load_encoder
    from viewfold.store import finite

    refuse_beside(options, "encoder", ("paths", "real", "device", "json"))
    if mesh := next((path for path in options.paths if path.suffix.lower() in READ_MESHES), None):
        raise InputError(f"`encoder` must go with pictures; '{mesh}' is a mesh. Render it: `viewfold render`.")
    failed: list[tuple[str, str]] = []
    if spec.startswith(LPIPS):
        record = measure_pairs(options.paths, options.real, spec.removeprefix(LPIPS), chosen(options.device), failed)
    else:
        record = measure(options.paths, options.real, load_encoder(spec, device=chosen(options.device)), failed)
    print(json.dumps(finite(record)) if options.json else in_words(record), flush=True)
    fail_if_any(failed)


def measure(
    paths: tuple[Path, ...], real: tuple[Path, ...], encoder: Encoder, failed: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return every figure of the pictures under `paths`, those that apply; what cannot be used goes into `failed`.

    Raises:
        AssetError: fewer than two pictures can be used.
        InputError: there is nothing that this encoder can measure.
    """
    from viewfold.evaluation.alignment import Alignment
    from viewfold.evaluation.distribution import Statistics, measure_fidelity
    from viewfold.evaluation.encoder import TextEncoder
    from viewfold.evaluation.source import list_prompts

    began, seconds, alignment = time.perf_counter(), {}, None
    if isinstance(encoder, TextEncoder) and (prompts := [p for path in paths for p in list_prompts(path)]):
        alignment = Alignment(encoder, prompts)
    sets: dict[str, Statistics] = {}
    with progress_bars() as report:
        for name, places in (("paths", paths), ("real", real)):
            if not places:
                continue
            sets[name] = Statistics(encoder=encoder.name)
            _gather(places, encoder, sets[name], alignment if name == "paths" else None, failed, seconds, report)
            if sets[name].n < 2:
                for what, reason in failed:
                    print(f"{what}: {reason}", file=sys.stderr)
                raise AssetError(f"`{name}` must hold at least 2 pictures that can be used; got {sets[name].n}.")
    found = measure_fidelity(sets["paths"], sets.get("real"))
    if found.inception_score is None and not real and alignment is None:
        raise InputError(f"`real` must name true pictures: {encoder.name} knows no classes, or no prompt is recorded.")
    aligned = alignment.result() if alignment is not None and alignment.seen else None
    figures: dict[str, Any] = {label: value for label, value in found.figures().items() if value is not None}
    if aligned is not None:
        figures |= {label: asdict(figure) for label, figure in aligned.figures().items() if figure is not None}
    seconds["statistics"] = time.perf_counter() - began - sum(seconds.values())
    return {
        "paths": [str(path) for path in paths],
        "encoder": encoder.name,
        "pictures": found.n,
        "real_pictures": found.n_real,
        "figures": figures,
        "notes": list(found.notes),
        "skipped": len(failed),
        "seconds": seconds,
    }


def measure_pairs(
    paths: tuple[Path, ...], real: tuple[Path, ...], file: str, device: str | None, failed: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return LPIPS of the pictures in a folder and those of the same names in another; see `measure`."""
    from viewfold.evaluation.interval import mean
    from viewfold.evaluation.perceptual import SMALLEST, PerceptualDistance
    from viewfold.evaluation.source import list_names, opaque, read_pictures
    from viewfold.picture import read_image

    if len(paths) != 1 or len(real) != 1 or not (paths[0].is_dir() and real[0].is_dir()):
        raise InputError(
            "`real` must be one folder, and `paths` too, for LPIPS: it compares pictures of the same name."
        )
    began, network, sums = time.perf_counter(), PerceptualDistance(file, device=device), {}
    for shown in read_pictures(paths[0], skip=lambda what, why: failed.append((what, why))):
        try:
            true = opaque(read_image(real[0] / shown.name))
        except AssetError as error:
            failed.append((shown.name, f"it has no true picture: {error}"))
            continue
        if true.shape != shown.rgb.shape or min(true.shape[1:]) < SMALLEST:
            sizes = [f"{rgb.shape[2]} x {rgb.shape[1]}" for rgb in (shown.rgb, true)]
            failed.append((shown.name, f"it must be of its true picture's size, {SMALLEST} px or more; got {sizes}"))
            continue
        total, count = sums.get(shown.subject, (0.0, 0))
        sums[shown.subject] = total + float(network.measure(shown.rgb[None], true[None])), count + 1
    if not sums:
        for what, reason in failed:
            print(f"{what}: {reason}", file=sys.stderr)
        raise AssetError("`paths` must hold pictures of the same names and sizes as `real`; there is no pair.")
    pairs, there = sum(count for _, count in sums.values()), sum(1 for _ in list_names(real[0]))
    return {
        "paths": [str(paths[0])],
        "encoder": network.name,
        "pictures": pairs,
        "real_pictures": there,
        "figures": {f"LPIPS ({network.name})": asdict(mean([total / count for total, count in sums.values()]))},
        "notes": [f"{there - pairs} true pictures have no counterpart."] * (there > pairs),
        "skipped": len(failed),
        "seconds": {"all": time.perf_counter() - began},
    }


def _gather(
    places: tuple[Path, ...],
    encoder: Encoder,
    statistics: Statistics,
    alignment: Alignment | None,
    failed: list[tuple[str, str]],
    seconds: dict[str, float],
    report: Report,
) -> None:
    """Show the pictures of some places to the encoder."""
    from viewfold.evaluation.encoder import encode_all

    def skip(what: str, reason: str) -> None:
        failed.append((what, reason))

    pictures = (shown for place in places for shown in read_any(place, skip))
    for some, encoded in encode_all(pictures, encoder, skip=skip, seconds=seconds):
        statistics.add(some, encoded)
        if alignment is not None:
            alignment.add(some, encoded)
        report(", ".join(place.name for place in places)[:40], statistics.n, None)  # pyright: ignore


def read_any(path: Path, skip: Skip) -> Iterator[Shown]:
    """Yield the pictures of a shard, of the shards in a folder if there are any, or of folders; see `read_pictures`."""
    from viewfold.evaluation.source import read_pictures

    shards = sorted(path.rglob(f"*{SHARD}")) if path.is_dir() else [path] * (path.suffix == SHARD)
    if not shards:
        yield from read_pictures(path, skip=skip)
    for shard in shards:
        yield from _read_shard(shard, skip)


def _read_shard(shard: Path, skip: Skip) -> Iterator[Shown]:
    from viewfold.data.shards import members
    from viewfold.evaluation.source import Shown, opaque
    from viewfold.picture import read_image
    from viewfold.store import open_regular
    from viewfold.views import SUFFIXES

    found = False
    try:
        with open_regular(shard) as file:
            for uid, suffix, offset, size in members(shard):
                if Path(f"{uid}.{suffix}").suffix.lower() not in SUFFIXES:
                    continue
                file.seek(offset)
                found, name = True, f"{uid}.{suffix}"
                try:
                    rgb = opaque(read_image(io.BytesIO(file.read(size))))
                except AssetError as error:
                    skip(f"{shard}: {name}", str(error))
                    continue
                yield Shown(name=name, rgb=rgb, subject=uid)
    except AssetError as error:
        skip(str(shard), str(error))
    except OSError as error:
        skip(str(shard), (error.strerror or str(error)).lower())
    else:
        if not found:
            skip(str(shard), "it holds no picture")


def in_words(record: dict[str, Any]) -> str:
    """Return a record as a few lines."""
    real = record["real_pictures"]
    beside = "" if real is None else f" beside {real} true ones"
    lines = [f"{', '.join(record['paths'])}: {record['pictures']} pictures{beside}"]
    width = max(map(len, record["figures"]), default=0)
    for label, value in record["figures"].items():
        if isinstance(value, dict):
            said = f"{value['value']:.4g}  ({value['low']:.4g} to {value['high']:.4g}, {value['n']} objects)"
        else:
            said = f"{value:.4g}"
        lines.append(f"{label:<{width}}  {said}")
    lines += [f"note: {note}" for note in record["notes"]]
    total = sum(record["seconds"].values()) or 1.0
    shares = ", ".join(f"{name} {spent / total:.0%}" for name, spent in record["seconds"].items())
    lines.append(f"{total:.1f} s: {shares}")
    return "\n  ".join(lines)
