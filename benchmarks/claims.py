"""The paper's claims about the network and its training, at the size of toys: one arm for each way to do it otherwise.

    recipes/claims.sh                                                          makes the data, and runs this
    python benchmarks/claims.py run --data runs/claims [--arms fold,alone,...] [--out runs/claims/arms]

As in the paper, a network that knows single pictures alone (here: trained on them from nothing, of all kinds) is made
into one of views: each arm begins with its weights, sees the same objects in the same order under the same noise for as
many pictures, and differs by one thing.  Three of the twelve kinds (`FLAT`) are seen as single pictures only.  Arms are
measured on the same prompts and seeds, none of whose combinations of kind and colours was trained on: such as name
everything, such as leave the part's colour open, on which only views that meet can agree, and such of `FLAT`.

Start it again and it goes on where it stopped, arm by arm.  Writes claims.md, claims.json, arms.webp, a sheet an arm.
Source: arXiv 2308.16512, sections 3.1 and 4, and its appendix.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from claims_network import Frame, Meeting, Told, Variant
from toybox_subjects import GENERATED, expect, expect_open, held_out_toys, true_views, world_of

from viewfold.data.toybox import Asset, World
from viewfold.evaluation.consistency import find_coverage
from viewfold.evaluation.distinctness import measure_distinctness
from viewfold.evaluation.fidelity import Expected, Outcome, assess
from viewfold.evaluation.interval import Figure, mean, paired_difference
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.picture import to_pil
from viewfold.pipeline import load
from viewfold.store import atomic_write
from viewfold.training.diffusion import DiffusionSettings, train_diffusion
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.settings import LoopSettings
from viewfold.views import Views

KINDS = ("mug", "chair", "car", "boat", "duck", "house", "lamp", "sofa", "aeroplane", "robot", "tree", "cat")
"""Of 36: a small world is learned in a small time."""

FLAT = ("boat", "chair", "duck")
"""Kinds that are seen as single pictures alone, never in 3D."""

SHOWN = ("mug", "chair", "car", "boat", "aeroplane", "robot")
"""Kinds in the picture of all arms."""

RUN = 17
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""

PICTURES = 32
"""Pictures of objects in a step, however many views that is of each."""

WIDTHS, HEADS = (96, 160), (3, 5)
"""Channels and heads of the two levels; the shipped network has (128, 192) and (4, 6)."""

BIAS = 2.0
"""Of the arms' time steps (`ObjectiveSettings.timestep_bias`): cameras and other views matter where noise is much.
Evenly spread, 400 steps at 4e-4 left the camera unread; with this, 300 at 1.6e-3 read it (6 % at t = 900)."""

STEPS, GUIDANCE = 12, 3.0

GROUPS = ("named", "part open", "2D alone")
SIDES = "sides of the right kind"
SCORES = ("agreement", "turned", "distinct", SIDES, "right kind", "right main", "right part", "look-alike")


@dataclass(frozen=True)
class Arm:
    """One way to make views of a 2D network; the defaults are the paper's."""

    views: Meeting = "fold"
    camera: Told = "time"
    frame: Frame = "world"
    share_2d: float = 0.3
    n_views: int = 4


ARMS = {
    "fold": Arm(),
    "alone": Arm(views="alone"),
    "pixel": Arm(views="pixel"),
    "new": Arm(views="new"),
    "objects only": Arm(share_2d=0.0),
    "camera in text": Arm(camera="text"),
    "no camera": Arm(camera="none"),
    "relative": Arm(frame="first"),
    "1 view": Arm(n_views=1),
    "2 views": Arm(n_views=2),
    "8 views": Arm(n_views=8),
}


def new_network(model: Any) -> Variant:
    """Return a 2D network of this benchmark's size, for the latents and texts of `model`."""
    config = {k: v for k, v in model.unet.config.items() if not k.startswith("_")}
    config |= {"block_out_channels": WIDTHS, "attention_head_dim": HEADS}
    config |= {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    return Variant(**config).vary(views="fold", camera="none", frame="world")


def train(model: Any, unet: Variant, out: Path, *, steps: int, **how: Any) -> None:
    """Train `unet` where it is, with averaged weights at the end; a finished run is read."""
    done = out / "weights.pt"
    if done.is_file():
        unet.load_state_dict(torch.load(done, weights_only=True))
        return
    shown = time.time()

    def progress(status: Any) -> None:
        nonlocal shown
        if time.time() - shown > 60:
            shown = time.time()
            print(out.name, status, flush=True)

    loop = LoopSettings(
        steps=steps, lr=how.pop("lr"), warmup=min(100, steps // 5), cooldown=steps // 4, ema=0.99, keep=1, seed=0
    )
    objective = ObjectiveSettings(
        share_2d=how.pop("share_2d"),
        timestep_bias=how.pop("bias", 0.0),
        prediction=model.scheduler.config["prediction_type"],
    )
    settings = DiffusionSettings(batch=how.pop("batch"), views=how.pop("views"), objective=objective, loop=loop)
    trained = train_diffusion(unet, model.text, model.alphas_cumprod, out, settings=settings, progress=progress, **how)
    with atomic_write(done) as temporary:
        torch.save(trained.network.state_dict(), temporary)


def make(model: Any, name: str, arm: Arm, data: Path, out: Path, *, steps: int, base_steps: int) -> Variant:
    """Return the trained network of an arm."""
    torch.manual_seed(0)
    unet = new_network(model)
    sources: dict[str, Any] = {"objects": [data / "objects", data / "flat"], "pictures": None}
    train(model, unet, out / "base", steps=base_steps, batch=PICTURES, views=1, share_2d=0.0, lr=8e-4, **sources)
    unet = unet.vary(views=arm.views, camera=arm.camera, frame=arm.frame)
    sources = {"objects": data / "objects", "pictures": data / "flat" if arm.share_2d else None}
    batch = PICTURES // arm.n_views
    # The share is of samples: as the number of pictures in a step must stay, so must that of the 2D half.
    n_flat = PICTURES // 4 * 0.3 / 0.7
    share = arm.share_2d and n_flat / (n_flat + batch)
    how: dict[str, Any] = {"batch": batch, "views": arm.n_views, "share_2d": share, "lr": 1.6e-3, "bias": BIAS}
    train(model, unet, out / name, steps=steps, **how, **sources)
    return unet.eval().requires_grad_(False)


def prompts(toys: list[Asset]) -> list[tuple[str, Expected]]:
    """Return what is asked for, and the group that it belongs to."""
    named = [("2D alone" if toy.kind in FLAT else "named", expect(toy)) for toy in toys]
    return named + [("part open", expect_open(toy)) for toy in toys if toy.kind not in FLAT]


def measure(
    model: Any, judge: Judge, unet: Variant, out: Path, asked: list[tuple[str, Expected]], truth: list[torch.Tensor]
) -> list[dict[str, Any]]:
    """Draw four views of every prompt and return what is seen in them; those that are there are read.

    Args:
        truth: true views of each prompt's toy.
    """
    model.unet, rows = unet, []
    for index, (group, wanted) in enumerate(asked):
        folder, seed = out / f"{index:03d}", RUN * 1000 + index
        if not (folder / "transforms.json").is_file():
            drawn = model([wanted.prompt], GENERATED, seeds=[seed], steps=STEPS, guidance=GUIDANCE)[0]
            views = Views(rgb=drawn.float().clamp(0, 1), cameras=GENERATED, prompt=wanted.prompt)
            views.save(folder, turntable=False)
        rgb = Views.load(folder).rgb
        seen = assess(judge, rgb, GENERATED, expected=wanted)
        said = {"group": group, "prompt": wanted.prompt, "turned": turned(rgb, truth[index])}
        rows.append(row(seen, rgb) | said)
    return rows


def turned(rgb: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the share of views whose outline is that of the toy's own true view rather than of another side's.

    A view counts where it has the largest overlap with the true outline of its own azimuth, of four; two sides whose
    true outlines are the same but for a twentieth count as one.  A camera that is not read gives a quarter.
    """
    drawn, true = find_coverage(rgb) > 0.5, find_coverage(truth) > 0.5

    def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a[:, None], b[None]
        return (a & b).sum((-1, -2, -3)) / (a | b).sum((-1, -2, -3)).clamp(min=1)

    same, found = overlap(true, true) > 0.95, overlap(drawn, true).argmax(dim=1)
    return float(same[torch.arange(len(rgb)), found].float().mean())


def row(seen: Outcome, rgb: torch.Tensor) -> dict[str, Any]:
    """Return the numbers of one subject."""
    return {
        "agreement": seen.consistency,
        "gap_px": min(seen.gap_px, 5.0),
        "distinct": measure_distinctness(rgb, GENERATED),
        "right kind": float(seen.right_kind),
        SIDES: seen.right_sides / 4,
        "right main": float(seen.right_main),
        "right part": float(seen.right_accent),
        "look-alike": seen.verdict.agreement,
    }


def sheet(rows: list[dict[str, Any]], folder: Path, path: Path) -> None:
    entries = []
    for index, each in list(enumerate(rows))[:: max(1, len(rows) // 24)]:
        note = f"{each['agreement']:.2f} agree, {4 * each[SIDES]:.0f} of 4 sides right"
        lines = ((each["prompt"], None), (note, each["right kind"] > 0))
        entries.append(Entry(rgb=Views.load(folder / f"{index:03d}").rgb, lines=lines))
    captioned_sheet(entries).save(path)


def side_by_side(out: Path, names: list[str], toys: list[Asset]) -> None:
    """Draw a toy of each of `SHOWN` by each arm, a row an arm, into arms.webp."""
    from PIL import Image, ImageDraw

    kinds = [toy.kind for toy in toys]
    places = [kinds.index(kind) for kind in SHOWN if kind in kinds]
    left, top, wide, high = 110, 18, 4 * 64 + 8, 64 + 6
    whole = Image.new("RGB", (left + wide * len(places), top + high * len(names)), "white")
    pen = ImageDraw.Draw(whole)
    for column, place in enumerate(places):
        pen.text((left + column * wide, 2), toys[place].captions[0][:44], fill="black")
        for line, name in enumerate(names):
            pen.text((2, top + line * high + 26), name, fill="black")
            strip = Views.load(out / "views" / name / f"{place:03d}").rgb.permute(1, 2, 0, 3).flatten(2)
            whole.paste(to_pil(strip), (left + column * wide, top + line * high))
    with atomic_write(out / "arms.webp") as temporary:
        whole.save(temporary, format="WEBP", quality=80, method=6)


def table(results: dict[str, list[dict[str, Any]]], group: str) -> str:
    """Return the figures of all arms, each with the paired difference from the paper's."""
    lines = []
    for arm, rows in results.items():
        cells = [arm]
        for name in SCORES:
            mine, base = ([r[name] for r in some if r["group"] == group] for some in (rows, results["fold"]))
            if arm in ("fold", "true renders"):
                cells.append(_one(mean(mine)))
            else:
                gap = paired_difference(mine, base)
                cells.append(f"{mean(mine).value:.3f}, {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})")
        lines.append(cells)
    return markdown_table([group, *SCORES], lines)


def _one(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def split(out: Path) -> None:
    """Share the toys of `KINDS` out: a third, and all of `FLAT`, to be seen as pictures, the others as objects."""
    for index, record in enumerate(sorted((out / "assets").glob("*.json"), key=lambda path: path.stem[-8:])):  # by seed
        kind = json.loads(record.read_text()).get("kind")  # the list of licences has none
        if kind in KINDS:
            folder = out / f"assets-{'flat' if kind in FLAT or index % 3 == 0 else 'objects'}"
            folder.mkdir(exist_ok=True)
            for path in record.parent.glob(f"{record.stem}.*"):
                if not (folder / path.name).exists():
                    (folder / path.name).hardlink_to(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    share = commands.add_parser("split", help="share the toys in OUT/assets out to 3D and 2D")
    share.add_argument("out", type=Path)
    run = commands.add_parser("run", help="train the arms and measure them")
    run.add_argument("--data", type=Path, default=Path("runs/claims"), help="holds objects/ and flat/")
    run.add_argument("--out", type=Path, default=Path("runs/claims/arms"))
    run.add_argument("--arms", default=",".join(ARMS))
    run.add_argument("--train-only", action="store_true", help="leave the table to a run of all arms in the same OUT")
    run.add_argument("--steps", type=int, default=1000, help="of an arm")
    run.add_argument("--base-steps", type=int, default=1500, help="of the 2D network")
    run.add_argument("--prompts", type=int, default=72, help="six of each kind by default")
    options = parser.parse_args()
    if options.command == "split":
        split(options.out)
        return
    torch.set_num_threads(1)
    judge, _ = load_judge()
    world = World(kinds=KINDS, colors=world_of(judge).colors, finishes=("matt",))
    toys = held_out_toys(options.prompts, seed=RUN, world=world)
    asked = prompts(toys)
    truth = {toy.captions[0]: true_views(toy).rgb for toy in toys}
    pictures = [truth[wanted.prompt] for _, wanted in asked[: len(toys)]]
    pictures += [picture for picture, toy in zip(pictures, toys, strict=True) if toy.kind not in FLAT]
    results: dict[str, list[dict[str, Any]]] = {}
    chosen = [*filter(None, options.arms.split(","))]
    names = chosen if options.train_only else list(dict.fromkeys(["fold", *chosen]))  # compared with
    for name in names:
        model = load("toybox")
        unet = make(
            model, name, ARMS[name], options.data, options.out, steps=options.steps, base_steps=options.base_steps
        )
        if options.train_only:
            continue
        folder = options.out / "views" / name
        results[name] = measure(model, judge, unet, folder, asked, pictures)
        sheet(results[name], folder, options.out / f"{name}.png")
        print(
            name,
            {k: round(mean([r[k] for r in results[name]]).value, 3) for k in ("agreement", "right kind")},
            flush=True,
        )
    if options.train_only:
        return
    results["true renders"] = [
        row(assess(judge, rgb, GENERATED, expected=wanted), rgb)
        | {"group": group, "prompt": wanted.prompt, "turned": turned(rgb, rgb)}
        for rgb, (group, wanted) in zip(pictures, asked, strict=True)
    ]
    side_by_side(options.out, names, toys)
    text = "\n\n".join(table(results, group) for group in GROUPS)
    print(text)
    for suffix, content in (
        ("md", text),
        ("json", json.dumps({"arms": {n: asdict(ARMS[n]) for n in names}, "rows": results})),
    ):
        with atomic_write(options.out / f"claims.{suffix}") as temporary:
            temporary.write_text(content)


if __name__ == "__main__":
    main()
