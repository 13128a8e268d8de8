"""How good is the shipped model?  Held-out combinations only; docs/quality.md says how each figure is measured.

    python benchmarks/toybox_quality.py --out out/quality                      # 60 prompts, 20 unseen words, 10 emoji
    python benchmarks/toybox_quality.py --out out/quality --lift 12            # and twelve kinds lifted to GLB
    python benchmarks/toybox_quality.py --out out/fold --against out/fold_off  # paired with a second model's folder

Start it again and it goes on where it stopped.  Writes results.json, table.md, contact.png, lifted.png and a folder per
prompt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from toybox_subjects import (
    BACKGROUND,
    GENERATED,
    SEEDS_PER_RUN,
    SIZE,
    UNSEEN,
    Settings,
    expect,
    groups,
    held_out_toys,
    true_views,
    world_of,
)

from viewfold import make
from viewfold.camera import Cameras
from viewfold.data.toybox import Asset
from viewfold.errors import InputError, OutputError, ViewfoldError
from viewfold.evaluation.fidelity import Expected, Outcome, assess, shows_two_sides
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.evaluation.summary import compare, measure_judge, summarise
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write, read_json
from viewfold.views import Views

Sampler = Callable[[str, Cameras, int], Views]
"""(prompt, cameras, seed) -> views."""

Lifter = Callable[[str, int, Path], None]
"""(prompt, seed, path) writes a GLB, from views of its own."""


class Progress:
    """Prints a line per finished unit with the time left."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.fresh, self.start = name, total, 0, 0, time.time()

    def step(self, note: str, *, fresh: bool) -> None:
        self.done += 1
        self.fresh += fresh
        left = (self.total - self.done) * (time.time() - self.start) / max(self.fresh, 1)
        print(f"{self.name} {self.done}/{self.total}, {left:.0f} s left: {note}", flush=True)


def sample_all(
    sample: Sampler, judge: Judge, subjects: dict[str, list[Expected]], out: Path, *, seed: int
) -> dict[str, list[Outcome]]:
    """Generate and assess the views of every subject that has no result yet."""
    progress = Progress("sample", sum(len(group) for group in subjects.values()))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in subjects}
    for name, group in subjects.items():
        for index, expected in enumerate(group):
            folder = out / name / f"{index:03d}"
            outcome = _read(folder / "outcome.json")
            fresh = outcome is None
            if outcome is None:
                views = sample(expected.prompt, GENERATED, seed * SEEDS_PER_RUN + index)
                views.save(folder, turntable=False)
                outcome = assess(judge, views.rgb, views.cameras, expected=expected)
                _write(folder / "outcome.json", outcome.to_json())
            outcomes[name].append(outcome)
            progress.step(describe(outcome), fresh=fresh)
    return outcomes


def lift_all(
    lift: Lifter, judge: Judge, toys: Sequence[Asset], out: Path, *, seed: int
) -> tuple[list[Outcome], dict[str, str]]:
    """Lift each toy's prompt, read the file back and look at it, lit, from eight new sides; failures by prompt."""
    progress, outcomes, failed = Progress("lift", len(toys)), [], {}
    for index, toy in enumerate(toys):
        expected = expect(toy)
        folder = out / "held_out" / f"{index:03d}"
        outcome = _read(folder / "lifted_outcome.json")
        fresh = outcome is None
        if outcome is None:
            try:
                lift(expected.prompt, seed * SEEDS_PER_RUN + index, folder / "lifted.glb")
                drawn = rasterize(load_mesh(folder / "lifted.glb"), UNSEEN, size=SIZE).over(BACKGROUND)
                Views(rgb=drawn, cameras=UNSEEN, prompt=expected.prompt).save(folder / "lifted", turntable=False)
                two_sided = shows_two_sides(drawn, true_views(toy, UNSEEN).rgb)
                outcome = replace(assess(judge, drawn, UNSEEN, expected=expected), two_sided=two_sided)
                _write(folder / "lifted_outcome.json", outcome.to_json())
            except (OutputError, InputError):
                raise
            except ViewfoldError as error:
                failed[expected.prompt] = str(error)
        if outcome is not None:
            outcomes.append(outcome)
        progress.step(describe(outcome) if outcome else f"{expected.prompt}: {failed[expected.prompt]}", fresh=fresh)
    return outcomes, failed


def describe(outcome: Outcome) -> str:
    """Return one line for the log."""
    seen = outcome.verdict
    return (
        f"{outcome.expected.prompt}: {seen.kind}, {seen.main}, {seen.accent}; {outcome.right_sides}/"
        f"{len(seen.kind_of_each)} sides; consistency {outcome.consistency:.3f}"
    )


def measure_reference(judge: Judge, settings: Settings) -> list[Outcome]:
    """Measure judge and consistency on true renders of other held-out toys than the prompts'."""
    toys = held_out_toys(settings.reference, seed=settings.seed + 500, world=world_of(judge))
    return [assess(judge, true_views(toy).rgb, GENERATED, expected=expect(toy)) for toy in toys]


def draw_sheet(outcomes: dict[str, list[Outcome]], out: Path) -> None:
    """Write contact.png: all prompts, good and bad."""
    entries = []
    for name, group in outcomes.items():
        for index, outcome in enumerate(group):
            seen, wanted = outcome.verdict, outcome.expected
            parts = [
                ("kind", seen.kind, wanted.kind),
                ("main", seen.main, wanted.main),
                ("part", seen.accent, wanted.accent),
            ]
            asked = [(label, got, want) for label, got, want in parts if want is not None]
            wrong = [f"{got}, not {want}" for _, got, want in asked if got != want]
            verdict = ("right: " + ", ".join(got for _, got, _ in asked)) if not wrong else "WRONG: " + "; ".join(wrong)
            entries.append(
                Entry(
                    rgb=Views.load(out / name / f"{index:03d}").rgb,
                    lines=(
                        (wanted.prompt, None),
                        (verdict, not wrong) if asked else ("not judged", None),
                        (f"consistency {outcome.consistency:.2f}", None),
                    ),
                )
            )
    with atomic_write(out / "contact.png") as temporary:
        captioned_sheet(entries).save(temporary, optimize=True)


def draw_lifted(out: Path) -> None:
    """Write lifted.png: every file that was lifted, from its eight new sides."""
    lifted = [Views.load(folder) for folder in sorted((out / "held_out").glob("*/lifted"))]
    entries = [Entry(rgb=views.rgb, lines=((views.prompt or "", None),)) for views in lifted]
    with atomic_write(out / "lifted.png") as temporary:
        captioned_sheet(entries, columns=2).save(temporary, optimize=True)


def run(
    sample: Sampler,
    settings: Settings,
    out: Path,
    *,
    lift: Lifter | None = None,
    against: Sampler | None = None,
    notes: dict[str, Any] | None = None,
    against_notes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the benchmark and write its results.

    Args:
        sample: makes views of a prompt.
        out: the folder of results; of this model and these settings alone.
        lift: makes GLB files; needed if `settings.lift` > 0.
        against: a second model, sampled with the same prompts and seeds.
        notes, against_notes: which model and how it is sampled; a folder of results belongs to one set of notes.

    Raises:
        InputError: `out` holds results of other settings.
    """
    _claim(out, settings, notes or {})
    judge, made = load_judge()
    reference = measure_reference(judge, settings)
    subjects = groups(settings, world_of(judge))
    outcomes = sample_all(sample, judge, subjects, out, seed=settings.seed)
    lifted, failed = [], {}
    if settings.lift and lift is not None:
        toys = held_out_toys(settings.prompts, seed=settings.seed, world=world_of(judge))
        lifted, failed = lift_all(lift, judge, toys[: settings.lift], out, seed=settings.seed)
    figures = summarise(outcomes, reference, lifted, len(failed))
    judged = measure_judge(reference)
    results: dict[str, Any] = {
        "settings": asdict(settings),
        "notes": notes or {},
        "against_notes": against_notes or {},
        "judge": {"measured_now": {k: asdict(v) for k, v in judged.items()}, "when_made": made},
        "true_renders": {"consistency": asdict(mean([o.consistency for o in reference]))},
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "failed_lifts": failed,
    }
    rows = [[name, figure.percent(), str(figure.n)] for name, figure in figures.items()]
    header = ["held-out combinations", "value (95 % interval)", "n"]
    if against is not None:
        _claim(out / "against", settings, against_notes or {})
        others = sample_all(against, judge, subjects, out / "against", seed=settings.seed)
        other_figures = summarise(others, reference)
        results["against"] = {name: asdict(figure) for name, figure in other_figures.items()}
        results["paired"] = {name: asdict(figure) for name, figure in compare(outcomes, others).items()}
        rows = [[*row, other_figures[row[0]].percent() if row[0] in other_figures else "-"] for row in rows]
        header.append("against")
    right = ", ".join(f"{name} {figure.percent()}" for name, figure in judged.items())
    text = f"{markdown_table(header, rows)}\n\nThe judge on {len(reference)} unseen true renders: right {right}"
    for name, item in results.get("paired", {}).items():
        text += f"\npaired difference, {name}: {item['value']:+.3f} ({item['low']:+.3f} to {item['high']:+.3f})"
    print(text)
    draw_sheet(outcomes, out)
    if lifted:
        draw_lifted(out)
    _write(out / "results.json", results)
    with atomic_write(out / "table.md") as temporary:
        temporary.write_text(text + "\n")
    return results


def _claim(out: Path, settings: Settings, notes: dict[str, Any]) -> None:
    ours = json.loads(json.dumps({"settings": asdict(settings), "notes": notes}))
    ours["settings"].pop("lift")
    path = out / "run.json"
    if path.is_file() and read_json(path) != ours:
        raise InputError(f"`out` must be a new folder or hold results of the same run; {path} differs. Name another.")
    _write(path, ours)


def _read(path: Path) -> Outcome | None:
    return Outcome.from_json(read_json(path)) if path.is_file() else None


def _write(path: Path, document: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1))


def model_sampler(
    name: str, *, steps: int | None, guidance: float | None, rescale: float, alone: bool = False
) -> tuple[Any, Sampler, dict[str, Any]]:
    """Return a model, its sampler and the notes on both; `alone` draws view by view, else views are folded."""
    import viewfold as vf
    from viewfold.pipeline.generation import weights_hash

    model, settings = vf.load(name), {"steps": steps, "guidance": guidance, "rescale": rescale}

    def sample(prompt: str, cameras: Cameras, seed: int) -> Views:
        return vf.generate(model, prompt, cameras=cameras, seed=seed, **settings)

    def sample_alone(prompt: str, cameras: Cameras, seed: int) -> Views:
        single = [sample(prompt, cameras[i], seed * len(cameras) + i).rgb for i in range(len(cameras))]
        return Views(rgb=torch.cat(single), cameras=cameras, prompt=prompt)

    notes = {"model": name, "weights_sha256": weights_hash(model), "alone": alone, **settings}
    return model, sample_alone if alone else sample, notes


def model_lifter(model: Any) -> Lifter:
    """Return the callable that lifts with a model's defaults."""

    def lift(prompt: str, seed: int, path: Path) -> None:
        make.lift(model, prompt, seed=seed).save(path, turntable=False)

    return lift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toybox", help="a name or a folder")
    parser.add_argument("--against", help="a second model, the same prompts and seeds, paired intervals")
    parser.add_argument("--against-alone", action="store_true", help="draw the second model's views one at a time")
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument("--steps", type=int, default=None, help="default: the model's own")
    parser.add_argument("--guidance", type=float, default=None, help="default: the model's own")
    parser.add_argument("--rescale", type=float, default=0.0)
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sampling = {name: getattr(options, name) for name in ("steps", "guidance", "rescale")}
    try:
        model, sample, notes = model_sampler(options.model, **sampling)
        against, against_notes = None, {}
        if options.against:
            _, against, against_notes = model_sampler(options.against, alone=options.against_alone, **sampling)
        lift = model_lifter(model) if options.lift else None
        limits = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
        run(sample, limits, options.out, lift=lift, against=against, notes=notes, against_notes=against_notes)
    except ViewfoldError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
