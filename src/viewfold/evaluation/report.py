"""What a reader sees of a measurement: a table in Markdown, and a sheet of pictures with a verdict under each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from viewfold.picture import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

GOOD, BAD, PLAIN = (0, 120, 40), (190, 20, 20), (40, 40, 40)
FONT_PX, LINE_PX, MARGIN_PX = 10, 12, 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One row of pictures and what is written under it."""

    rgb: Float[Tensor, "v 3 h w"]
    lines: tuple[tuple[str, bool | None], ...]
    """Text, and whether it is good news (green), bad (red) or neither."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def captioned_sheet(entries: Sequence[Entry], *, columns: int = 4) -> Image.Image:
    """Lay entries out in `columns`, each a row of its views with its lines of text under it, cut to the width."""
    from PIL import Image, ImageDraw, ImageFont

    strips = [contact_sheet(entry.rgb, columns=len(entry.rgb)) for entry in entries]
    width = max((strip.width for strip in strips), default=1) + MARGIN_PX
    height = (
        max((s.height + LINE_PX * len(e.lines) for s, e in zip(strips, entries, strict=True)), default=1) + MARGIN_PX
    )
    columns = max(1, min(columns, len(entries)))
    sheet = Image.new("RGB", (width * columns, height * max(1, math.ceil(len(entries) / columns))), "white")
    font, draw = ImageFont.load_default(size=FONT_PX), ImageDraw.Draw(sheet)
    for index, (strip, entry) in enumerate(zip(strips, entries, strict=True)):
        left, top = index % columns * width, index // columns * height
        sheet.paste(strip, (left, top))
        for line, (whole, good) in enumerate(entry.lines):
            text = whole[: strip.width // 3]  # no letter that matters is narrower
            while len(text) > 4 and draw.textlength(text, font=font) > strip.width:
                text = text.rstrip(".")[:-1] + "..." if not text.endswith("...") else text[:-4] + "..."
            color = PLAIN if good is None else GOOD if good else BAD
            draw.text((left + 2, top + strip.height + line * LINE_PX), text, fill=color, font=font)
    return sheet
