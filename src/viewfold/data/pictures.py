"""Captioned 2D pictures for the 2D half of the training mix.

`import_emoji` turns a folder of emoji pictures whose file names are code points (the Fluent set: 3391 WebP files, MIT)
into the layout that `render` writes, one view each and no camera, so that everything after it is the same for both.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from viewfold.errors import AssetError, InputError
from viewfold.picture import read_image, to_pil
from viewfold.store import atomic_write, write_json

SKIN_TONES = range(0x1F3FB, 0x1F400)
VARIATION_SELECTOR = 0xFE0F
CAPTION_FORMS = ("{}", "a {}", "an emoji of a {}", "a picture of a {}")


@dataclass(frozen=True, kw_only=True)
class PictureReport:
    """What an import did."""

    done: int
    skipped: int
    failed: list[tuple[str, str]]


def emoji_name(stem: str) -> str | None:
    """Return the Unicode name of a single-code-point emoji file (`1f60a` -> "smiling face with smiling eyes").

    None for sequences, skin-tone variants and code points without a name.
    """
    try:
        points = [int(part, 16) for part in stem.split("-")]
    except ValueError:
        return None
    points = [point for point in points if point != VARIATION_SELECTOR]
    if len(points) != 1 or points[0] in SKIN_TONES or not 0 < points[0] < 0x110000:
        return None
    name = unicodedata.name(chr(points[0]), "").lower().replace("-", " ")
    return name or None


def import_emoji(
    folder: str | Path,
    out: str | Path,
    *,
    size: int = 64,
    without: frozenset[str] = frozenset(),
    progress: Callable[[int, int], None] | None = None,
) -> PictureReport:
    """Shrink named emoji to `size` px RGBA and write them as one-view samples under `out`.

    Args:
        folder: holds `<code points>.webp` or `.png`.
        without: words; a picture whose name holds one is left out (kept for tests of unseen words).

    Raises:
        InputError: the folder holds no picture.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".webp", ".png"))
    if not files:
        raise InputError(f"`folder` must hold .webp or .png pictures; `{folder}` holds none.")
    done, skipped, failed = 0, 0, []
    for index, path in enumerate(files):
        name = emoji_name(path.stem)
        target = Path(out) / f"emoji-{path.stem}"
        if name is None or without & set(name.split()) or (target / "meta.json").exists():
            skipped += 1
        else:
            try:
                _write_picture(path, target, name=name, size=size)
                done += 1
            except AssetError as error:
                failed.append((path.name, str(error)))
        if progress:
            progress(index + 1, len(files))
    return PictureReport(done=done, skipped=skipped, failed=failed)


def _write_picture(path: Path, target: Path, *, name: str, size: int) -> None:
    picture = read_image(path)
    if picture.shape[0] == 3:
        picture = torch.cat([picture, torch.ones_like(picture[:1])])
    premultiplied = torch.cat([picture[:3] * picture[3:], picture[3:]])[None]
    small = torch.nn.functional.interpolate(premultiplied, (size, size), mode="area")[0]
    straight = torch.cat([small[:3] / small[3:].clamp(min=1e-6), small[3:]])
    meta = {
        "captions": [form.format(name) for form in CAPTION_FORMS],
        "licence": "MIT",
        "author": "Microsoft Fluent Emoji",
        "views": None,
    }
    with atomic_write(target) as temporary:
        temporary.mkdir()
        to_pil(straight).save(temporary / "000.webp", lossless=True)
        write_json(temporary / "meta.json", meta)
