"""A blind comparison of two runs: a page of pairs in random order, and the key that says which side was which.

The page names no run, file or model, and both pictures of a pair have one size and one number of views; who votes
cannot tell the runs apart but by what is seen.  After the user study of MVDream (section 4.2).
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viewfold import limits
from viewfold.errors import InputError, ViewfoldError
from viewfold.evaluation.case import read_maker
from viewfold.evaluation.page import asset, head, picture, text
from viewfold.evaluation.thumbnail import Thumbnail, strip, turning
from viewfold.formats import READ_MESHES
from viewfold.scene.meshfile import load_mesh
from viewfold.store import atomic_write, write_json
from viewfold.views import Views

PAGE, KEY = "ab.html", "ab-key.json"

PAIRS = 50
"""Shown, chosen at random: what a person looks through in ten minutes."""

SHOWN_VIEWS, SIDE_PX = 4, 192
"""Of each set, and how large each view is, whatever it was."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two runs."""

    name: str
    places: Sequence[tuple[Path, str]]
    """Folders of views and meshes, and what each is called where it has no prompt."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What both runs made of one prompt and seed."""

    id: str
    subject: str
    seed: int | None
    first: Path
    second: Path
    left_is_first: bool


@dataclass(frozen=True, kw_only=True)
class Blind:
    """What was written."""

    page: Path
    key: Path
    n_pairs: int
    failed: Sequence[tuple[str, str]] = ()
    """Pairs whose pictures cannot be read, and why."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why things are in no pair, and how many."""


DrawPair = Callable[[Path, Path], tuple[Thumbnail, Thumbnail]]


def draw_pair(first: Path, second: Path) -> tuple[Thumbnail, Thumbnail]:
    """Return two pictures that differ in nothing but what is seen: one size, as many views, no fields.

    Raises:
        AssetError, InputError, MissingExtraError: one cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if first.suffix.lower() in READ_MESHES:
            return turning(load_mesh(first)), turning(load_mesh(second))
        a, b = Views.load(first), Views.load(second)
        most = min(len(a), len(b), SHOWN_VIEWS)
        made = [strip(views, columns=min(2, most), most=most, side=SIDE_PX) for views in (a, b)]
        return made[0], made[1]


def make_pairs(first: Side, second: Side, *, most: int = PAIRS, seed: int = 0) -> tuple[list[Pair], dict[str, int]]:
    """Return pairs with the same kind, prompt and seed in random order, and why others are in none.

    Each side has either run on its left for half of the pairs.

    Args:
        first, second: the runs.
        most: pairs, 1 to `limits.VOTES_PAIRS`; of more, some by chance.
        seed: of the order and the sides.

    Raises:
        InputError: no pair, or `most` out of range.
    """
    if not 1 <= most <= limits.VOTES_PAIRS:
        raise InputError(f"`pairs` must lie between 1 and {limits.VOTES_PAIRS}; got {most}.")
    keyed = [[(_key(path, name), path) for path, name in side.places] for side in (first, second)]
    counts = [Counter(key for key, _ in side) for side in keyed]
    repeated = {key for count in counts for key, n in count.items() if n > 1}
    ours, theirs = ({key: path for key, path in side if key not in repeated} for side in keyed)
    keys = sorted(ours.keys() & theirs.keys(), key=repr)
    alone = {f"only in {first.name}": len(ours.keys() - theirs.keys())}
    alone |= {f"only in {second.name}": len(theirs.keys() - ours.keys())}
    alone["there more than once"] = sum(count[key] for count in counts for key in repeated)
    if not keys:
        raise InputError("`ab` must go with two runs that hold the same prompts and seeds; they have none in common.")
    dice = random.Random(f"viewfold blind {seed}")
    alone["more than are shown"] = max(0, len(keys) - most)
    chosen = dice.sample(keys, min(most, len(keys)))
    sides = [number % 2 == 0 for number in range(len(chosen))]
    dice.shuffle(sides)
    pairs = [
        Pair(
            id=f"{dice.getrandbits(48):012x}",
            subject=key[1],
            seed=key[2],
            first=ours[key],
            second=theirs[key],
            left_is_first=left,
        )
        for key, left in zip(chosen, sides, strict=True)
    ]
    return pairs, {why: n for why, n in alone.items() if n}


def _key(path: Path, name: str) -> tuple[str, str, int | None]:
    prompt, seed, _ = read_maker(path)
    return ("mesh" if path.suffix.lower() in READ_MESHES else "views"), prompt or name, seed


def write_blind(
    first: Side, second: Side, folder: str | Path, *, most: int = PAIRS, seed: int = 0, draw: DrawPair = draw_pair
) -> Blind:
    """Write ab.html and ab-key.json into a folder, each whole or not at all.

    Args:
        first, second, most, seed: see `make_pairs`.
        folder: is made if it is not there; what else it holds stays.
        draw: gives the pictures of a pair; one that it cannot read is left out and named.

    Raises:
        InputError: no pair that can be shown, or `most` out of range.
        OutputError: the folder cannot be written.
    """
    pairs, left_out = make_pairs(first, second, most=most, seed=seed)
    page, key = Path(folder) / PAGE, Path(folder) / KEY
    told = json.dumps([seed, first.name, second.name, [(p.id, p.subject, p.seed, p.left_is_first) for p in pairs]])
    page_id = hashlib.sha256(told.encode()).hexdigest()[:16]
    failed: list[tuple[str, str]] = []
    shown: list[Pair] = []
    with atomic_write(page) as temporary:
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(blind_chunks(pairs, page_id, draw=draw, shown=shown, failed=failed))
        if not shown:
            raise InputError(f"`ab` must go with pictures that can be read; of {len(pairs)} pairs none can be shown.")
        with atomic_write(key) as place:
            write_json(place, key_json(first, second, shown, page_id))
    return Blind(page=page, key=key, n_pairs=len(shown), failed=failed, left_out=left_out)


def key_json(first: Side, second: Side, pairs: Sequence[Pair], page_id: str) -> dict[str, object]:
    """Return what says which side was which; it stays with whoever asks."""
    told = {
        pair.id: {
            "left": "first" if pair.left_is_first else "second",
            "subject": pair.subject[: limits.RECORD_TEXT],
            "seed": pair.seed,
        }
        for pair in pairs
    }
    return {"page": page_id, "first": first.name, "second": second.name, "pairs": told}


def blind_chunks(
    pairs: Sequence[Pair], page_id: str, *, draw: DrawPair, shown: list[Pair], failed: list[tuple[str, str]]
) -> Iterator[str]:
    """Yield the page piece by piece; pairs go to `shown`, or to `failed` if their pictures cannot be read."""
    yield head("Which do you prefer?", "page.css", "blind.css")
    yield f'<body class="blind" data-page="{page_id}">\n{asset("blind.html")}<main id="pairs">\n'
    for pair in pairs:
        try:
            made = draw(pair.first, pair.second)
        except (ViewfoldError, OSError) as error:
            failed.append((f"{pair.first} beside {pair.second}", str(error)))
            continue
        left, right = made if pair.left_is_first else made[::-1]
        shown.append(pair)
        yield (
            f'<section class="pair" data-id="{pair.id}" hidden><h2>{text(pair.subject)}</h2>\n<div class="two">'
            f"<figure>{picture(left, alt='the left one')}</figure>\n"
            f"<figure>{picture(right, alt='the right one')}</figure></div></section>\n"
        )
    yield f"</main>\n<script>\n{asset('blind.js')}</script>\n</body>\n</html>\n"
