"""report.html: the findings as one page that asks nobody for anything, written piece by piece.

The verdict first, then two runs side by side, then the worst with pictures, then all in a table.  Prompts and records
are strangers' words: every text goes through `text`, and the page's own policy (CSP) lets nothing in from outside.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from viewfold.errors import ViewfoldError
from viewfold.evaluation.case import Case, Score, scores_of
from viewfold.evaluation.findings import Findings
from viewfold.evaluation.interval import Figure
from viewfold.evaluation.thumbnail import Draw, Thumbnail
from viewfold.evaluation.verdict import KINDS, Comparison, holds_zero, judge

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)

SHOWN = 240
"""Letters of a prompt or a message in the page; report.json has the whole."""

NAMES = {"views": "Views", "mesh": "Meshes"}
FEW = 10
"""Prompts below which a bootstrap's interval is too narrow to lean on."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def text(words: object, *, most: int = SHOWN) -> str:
    """Return words as a page shows them: escaped, cut, without what would control or turn round the words beside."""
    plain = _CONTROL.sub(" ", str(words)).strip()
    return f"<bdi>{html.escape(plain if len(plain) <= most else plain[:most] + ' …')}</bdi>"


def attribute(words: object, *, most: int = SHOWN) -> str:
    """Return words as the value of an attribute in double quotes."""
    return html.escape(_CONTROL.sub(" ", str(words))[:most], quote=True)


def asset(name: str) -> str:
    """Return a part of a page that lies in `web/`."""
    return (files("viewfold.evaluation") / "web" / name).read_text(encoding="utf-8")


def head(title: str, *styles: str) -> str:
    """Return a page's beginning up to its body, with the policy that keeps everything else out."""
    css = "\n".join(asset(name) for name in styles)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{css}</style>\n</head>\n"
    )


def page_chunks(findings: Findings, *, worst: int, draw: Draw) -> Iterator[str]:
    """Yield the page piece by piece.

    Args:
        findings: what `find` returned.
        worst: of each run, and of each comparison, that are shown with pictures.
        draw: gives the picture of a path; what it cannot read is said in the picture's place.
    """
    yield head("viewfold report", "page.css")
    yield (
        "<body>\n<header><h1>What was measured</h1>\n"
        + _counted(findings)
        + _contents(findings)
        + "</header>\n<main>\n"
    )
    yield '<section id="verdict"><h2>Verdict</h2>\n'
    for kind in KINDS:
        yield _verdict(findings, kind)
    yield "".join(f"<p>{_in_words(comparison)}</p>\n" for comparison in findings.comparisons)
    yield _grounds(findings) + "</section>\n"
    for number, comparison in enumerate(findings.comparisons):
        yield from _comparison(comparison, f"against-{number}", worst=worst, draw=draw)
    yield from _worst(findings, worst=worst, draw=draw)
    yield from _all(findings)
    yield _failed(findings)
    yield f"</main>\n<script>\n{asset('page.js')}</script>\n</body>\n</html>\n"


def _counted(findings: Findings) -> str:
    counts = [sum(case.kind == kind for run in findings.runs for case in run.cases) for kind in KINDS]
    words = [f"{n} {name}" for n, name in zip(counts, ("sets of views", "meshes"), strict=True) if n]
    runs = f" in {len(findings.runs)} runs" * (len(findings.runs) > 1)
    bad = len(findings.failed)
    failed = f'<a class="bad" href="#failed">{bad} could not be used</a>' if bad else "none was left out"
    return f'<p class="lead">{" and ".join(words) or "nothing"}{runs}; {failed}.</p>\n'


def _contents(findings: Findings) -> str:
    links = [("verdict", "Verdict")]
    links += [(f"against-{n}", f"{c.second} beside {c.first}") for n, c in enumerate(findings.comparisons)]
    links += [("worst", "Worst first"), ("all", "All")] + [("failed", "Left out")] * bool(findings.failed)
    return "<nav>" + " ".join(f'<a href="#{where}">{text(name, most=60)}</a>' for where, name in links) + "</nav>\n"


def _verdict(findings: Findings, kind: str) -> str:
    runs = [run for run in findings.runs if kind in run.figures]
    if not runs:
        return ""
    header = "".join(f'<th scope="col">{text(run.name or NAMES[kind], most=80)}</th>' for run in runs)
    rows = []
    for score in scores_of(kind):
        figures = [run.figures[kind].get(score.name) for run in runs]  # type: ignore[index]
        if any(figures):
            cells = "".join(f"<td>{'–' if f is None else _figure(f, score.digits)}</td>" for f in figures)
            rows.append(f'<tr><th scope="row">{_score(score)}</th>{cells}</tr>\n')
    counts = "".join(f"<td>{_count(run.cases, kind)}</td>" for run in runs)
    few = any(f.n < FEW for run in runs for f in run.figures[kind].values())  # type: ignore[index]
    note = f" Of fewer than {FEW} prompts an interval is too narrow: read it as a hint." * few
    return (
        f'<div class="wide"><table><caption>{NAMES[kind]}: means over prompts with 95 % intervals</caption>\n'
        f'<thead><tr><th scope="col">Score</th>{header}</tr></thead>\n<tbody>\n{"".join(rows)}'
        f'<tr class="count"><th scope="row">rests on</th>{counts}</tr>\n</tbody></table></div>\n'
        f'<p class="note">↑ more is better, ↓ less is better. Seeds of one prompt are averaged first.{note}</p>\n'
    )


def _score(score: Score) -> str:
    arrow = {
        "high": '&nbsp;<span title="more is better">↑</span>',
        "low": '&nbsp;<span title="less is better">↓</span>',
    }
    says = f"<small>{html.escape(score.says)}</small>" if score.says else ""
    return f"{html.escape(score.name)}{arrow.get(score.better or '', '')}{says}"


def _figure(figure: Figure, digits: int, *, sign: str = "") -> str:
    value, low, high = (
        f"{number:{sign}.{digits}f}".replace("-", "−") for number in (figure.value, figure.low, figure.high)
    )
    return f"<b>{value}</b><small>{f'{low} to {high}' if figure.n > 1 else 'one subject: no interval'}</small>"


def _count(cases: Any, kind: str) -> str:
    some = [case for case in cases if case.kind == kind]
    subjects, seeds = len({case.subject for case in some}), len({case.seed for case in some})
    return f"<b>{len(some)}</b><small>{_many(subjects, 'subject')}, {_many(seeds, 'seed')}</small>"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _grounds(findings: Findings) -> str:
    """Return the command, the machine, and the weights of each run."""
    items = [("Command", f"<code>{text(findings.command, most=2000)}</code>")] if findings.command else []
    items += [(name, text(value)) for name, value in findings.machine.items()]
    parts = "".join(f"<dt>{html.escape(name)}</dt><dd>{value}</dd>\n" for name, value in items)
    makers = "".join(
        f"<li>{text(run.name or 'all', most=80)}: {_maker(maker)} <small>({count})</small></li>\n"
        for run in findings.runs
        for maker, count in run.makers
    )
    made = f"<h3>Made by, as their files say</h3>\n<ul>{makers}</ul>\n" if makers else ""
    return f'<h3>Measured</h3>\n<dl class="facts">\n{parts}</dl>\n{made}'


def _maker(maker: Mapping[str, Any]) -> str:
    if not maker:
        return "no record of it"
    versions = maker.get("versions", {})
    words = [
        f"model {text(maker['model'])}" if "model" in maker else "",
        f'weights <code class="hash">{text(maker["weights_sha256"])}</code>' if "weights_sha256" in maker else "",
        f"LoRA {text(' + '.join(maker['lora']))}" if "lora" in maker else "",
        *(f"{name} {text(maker[name])}" for name in ("steps", "guidance", "scheduler", "suffix") if name in maker),
        f"on {text(maker['device'])}" if "device" in maker else "",
        f"in {text(maker['dtype'])}" if "dtype" in maker else "",
        text(", ".join(f"{name} {value}" for name, value in versions.items())) if versions else "",
    ]
    return ", ".join(word for word in words if word)


def _comparison(comparison: Comparison, anchor: str, *, worst: int, draw: Draw) -> Iterator[str]:
    names = {score.name: score for score in scores_of(comparison.kind)}
    rows = "".join(
        f'<tr><th scope="row">{_score(names[name])}</th><td>{_figure(f, names[name].digits, sign="+")}</td>'
        f"{_word(names[name], f)}<td>{_forest(f)}</td></tr>\n"
        for name, f in comparison.figures.items()
    )
    left_out = "; ".join(f"{n} {text(why, most=80)}" for why, n in comparison.left_out.items())
    subjects = len({first.subject for first, _ in comparison.pairs})
    yield (
        f'<section id="{anchor}"><h2>{text(comparison.second, most=80)} beside {text(comparison.first, most=80)}</h2>\n'
        f"<p>{_many(len(comparison.pairs), 'pair')} with the same prompt and seed, {_many(subjects, 'subject')}."
        f"{f' Not paired: {left_out}.' if left_out else ''}</p>\n"
        f'<div class="wide"><table><caption>{NAMES[comparison.kind]}: the second minus the first, paired, with 95 % '
        'intervals</caption>\n<thead><tr><th scope="col">Score</th><th scope="col">Difference</th>'
        '<th scope="col">Shown</th><th scope="col"><span class="quiet">Interval beside zero</span></th></tr>'
        "</thead>\n"
        f"<tbody>\n{rows}</tbody></table></div>\n"
        '<p class="note">A difference is shown where zero is outside of the interval. Each errs one time in twenty, so '
        "that one of many scores may well differ by chance.</p>\n<h3>Greatest loss first</h3>\n"
    )
    for first, second in comparison.pairs[:worst]:
        yield (
            f'<article class="pair"><h4>{_title(second)}</h4>\n<div class="sides">'
            f"{_side(first, draw)}{_side(second, draw)}</div></article>\n"
        )
    yield "</section>\n"


def _word(score: Score, figure: Figure) -> str:
    word, zero = judge(score, figure), "in it" if holds_zero(figure) else "outside"
    return f'<td class="{word}">{word}<small>zero is {zero}</small></td>'


def _in_words(comparison: Comparison) -> str:
    """Return what a comparison shows as one sentence."""
    said: dict[str, list[str]] = {}
    for score in scores_of(comparison.kind):
        if score.name in comparison.figures:
            said.setdefault(judge(score, comparison.figures[score.name]), []).append(score.name)
    alike = len(said.pop("none", []))
    parts = [f"<b>{what}</b> in {html.escape(', '.join(names))}" for what, names in said.items()]
    parts += [f"no difference shown in {alike if parts else 'any'} of {len(comparison.figures)} scores"] * bool(alike)
    kind = NAMES[comparison.kind].lower()
    return f"{text(comparison.second, most=80)} beside {text(comparison.first, most=80)}, {kind}: {'; '.join(parts)}."


def _forest(figure: Figure) -> str:
    """Return the interval as a line beside zero; its scale is the interval's own."""
    if figure.n < 2:
        return ""
    reach = max(abs(figure.low), abs(figure.high)) or 1.0
    low, high, at = (60 + 56 * value / reach for value in (figure.low, figure.high, figure.value))
    return (
        '<svg class="forest" viewBox="0 0 120 16" width="120" height="16" aria-hidden="true">'
        f'<path class="zero" d="M60 0V16"/><path d="M{low:.1f} 8H{high:.1f}"/>'
        f'<circle cx="{at:.1f}" cy="8" r="3.5"/></svg>'
    )


def _side(case: Case, draw: Draw) -> str:
    said = f"{text(case.run, most=80)}: {_main_scores(case)}"
    return f"<figure>{_picture(case, draw)}<figcaption>{said}</figcaption></figure>\n"


def _title(case: Case) -> str:
    seed = "" if case.seed is None else f' <span class="seed">seed {case.seed}</span>'
    return text(case.subject) + seed


def _main_scores(case: Case, *, most: int = 5) -> str:
    known = [s for s in scores_of(case.kind) if s.name in case.scores and not s.is_share][:most]
    return ", ".join(f"{html.escape(s.name)} <b>{_number(case.scores[s.name], s)}</b>" for s in known)


def _number(value: float | None, score: Score) -> str:
    """Return the score of one thing; of a count there is no half."""
    if value is None:
        return "–"
    return f"{value:.0f}" if score.is_count else f"{value:.{score.digits}f}"


def _picture(case: Case, draw: Draw) -> str:
    try:
        made = draw(case.path)
    except (ViewfoldError, OSError) as error:
        return f'<p class="bad">no picture: {text(error)}</p>'
    return picture(made, alt=f"{'views' if made.frames == 1 else 'mesh, turning'}: {case.subject}")


def picture(made: Thumbnail, *, alt: str) -> str:
    """Return an image; a mesh turns, stands still where a reader wants no motion, and has a slider."""
    if made.frames == 1:
        size = f'width="{made.width}" height="{made.height}"'
        return f'<img class="strip" src="{made.uri}" {size} decoding="async" alt="{attribute(alt)}">'
    edge = made.height
    return (
        f'<div class="turn"><img src="{made.uri}" width="{edge}" height="{edge}" style="--frames:{made.frames}" '
        f'alt="{attribute(alt)}"><input type="range" min="0" max="{made.frames - 1}" value="0" '
        f'aria-label="{attribute("turn: " + alt)}"></div>'
    )


def _worst(findings: Findings, *, worst: int, draw: Draw) -> Iterator[str]:
    yield f'<section id="worst"><h2>Worst first</h2>\n<p>{_many(worst, "set")} or fewer of each run.</p>\n'
    for run in findings.runs:
        for kind in run.figures:
            yield f'<h3>{text(" / ".join(filter(None, (run.name, NAMES[kind]))), most=90)}</h3>\n<div class="cards">\n'
            for case in [case for case in run.cases if case.kind == kind][:worst]:
                yield (
                    f'<article class="card">{_picture(case, draw)}<h4>{_title(case)}</h4><p>{_main_scores(case)}</p>'
                    f"{_health(case)}<p><code>{text(case.path)}</code></p></article>\n"
                )
            yield "</div>\n"
    yield "</section>\n"


def _health(case: Case) -> str:
    if case.kind != "mesh":
        return ""
    closed = bool(case.scores.get("closed"))
    return f'<p class="{"better" if closed else "worse"}">{"closed" if closed else "not closed"}</p>'


def _all(findings: Findings) -> Iterator[str]:
    yield '<section id="all"><h2>All</h2>\n'
    yield '<p><label>Find <input type="search" id="find" autocomplete="off"></label></p>\n'
    for kind in KINDS:
        cases = [case for run in findings.runs for case in run.cases if case.kind == kind]
        if not cases:
            continue
        scores = [score for score in scores_of(kind) if any(score.name in case.scores for case in cases)]
        header = "".join(f'<th scope="col"><button type="button">{html.escape(s.name)}</button></th>' for s in scores)
        yield (
            f'<div class="wide"><table class="all"><caption>{NAMES[kind]}, worst first; a heading sorts</caption>\n'
            '<thead><tr><th scope="col"><button type="button">subject</button></th>'
            '<th scope="col"><button type="button">seed</button></th>'
            f'<th scope="col"><button type="button">run</button></th>{header}</tr></thead>\n<tbody>\n'
        )
        for case in sorted(cases, key=lambda case: case.goodness):
            cells = "".join(f"<td>{_number(case.scores.get(score.name), score)}</td>" for score in scores)
            seed = "–" if case.seed is None else case.seed
            yield (
                f'<tr><th scope="row">{text(case.subject, most=120)}</th><td>{seed}</td>'
                f"<td>{text(case.run, most=80)}</td>{cells}</tr>\n"
            )
        yield "</tbody></table></div>\n"
    yield "</section>\n"


def _failed(findings: Findings) -> str:
    if not findings.failed:
        return ""
    rows = "".join(
        f"<li><code>{text(name)}</code>: {text(reason, most=500)}</li>\n" for name, reason in findings.failed
    )
    return f'<section id="failed"><h2>Left out</h2>\n<ul>{rows}</ul></section>\n'
