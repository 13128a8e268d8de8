"""Single pictures: read from a stranger's file, written, laid out side by side, turned into an animation.

Below views; it knows pixels alone, no cameras and no networks.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import AssetError, InputError
from viewfold.origin.record import picture_fields
from viewfold.origin.watermark import MIN_EDGE, embed
from viewfold.store import atomic_write

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 4096 * 4096
"""A picture with more pixels is refused before it is decoded."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read, in Pillow's words; of its other formats some start programs (EPS) or are seldom looked after."""


def to_pil(rgb: Float[Tensor, "c h w"]) -> Image.Image:
    """Return an 8-bit picture of `c` = 3 (RGB) or 4 (RGBA, straight alpha) channels in [0, 1]."""
    from PIL import Image

    array = (rgb.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def read_image(path: str | Path | io.BytesIO) -> Float[Tensor, "c h w"]:
    """Read a picture as RGB, or RGBA where it has alpha, in [0, 1].

    Raises:
        AssetError: the file is missing, not a picture, truncated, or larger than `MAX_PIXELS`.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise AssetError(
                    f"`{path}` must have at most {MAX_PIXELS} pixels; got {picture.size}. Make it smaller."
                )
            has_alpha = "A" in picture.getbands() or "transparency" in picture.info
            array = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AssetError(f"`{path}` cannot be read as a picture: {error}.") from error
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


def contact_sheet(
    rgb: Float[Tensor, "v 3 h w"], *, columns: int | None = None, gap: int = 2, mark: int | None = None
) -> Image.Image:
    """Lay pictures out in rows of `columns` (default: all in one row up to 8), with a white gap.

    Marks of the pictures cannot be read from the sheet; `mark` is one of its own, where it is large enough.
    """
    n_views, _, height, width = rgb.shape
    columns = columns or min(n_views, 8)
    rows = math.ceil(n_views / columns)
    sheet = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, picture in enumerate(rgb.detach().float().cpu()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    if mark is not None and min(sheet.shape[1:]) >= MIN_EDGE:
        sheet = embed(sheet[None], mark)[0]
    return to_pil(sheet)


def write_turntable(
    rgb: Float[Tensor, "v 3 h w"], path: str | Path, *, frames_per_second: float = 15.0, record: object = None
) -> None:
    """Write views as an animation: .webp or .gif with Pillow, .mp4 if imageio-ffmpeg is installed.

    A `record` of provenance goes into the file (not into .mp4).

    Raises:
        InputError: another suffix.
        MissingExtraError: .mp4 without imageio-ffmpeg.
    """
    path = Path(path)
    frames = [to_pil(picture) for picture in rgb]
    if path.suffix == ".mp4":
        _write_mp4(frames, path, frames_per_second)
    elif path.suffix in (".webp", ".gif"):
        options: dict[str, Any] = {"quality": 90} if path.suffix == ".webp" else {"disposal": 2}
        options |= picture_fields(record, suffix=path.suffix)
        with atomic_write(path) as temporary:
            duration = round(1000 / frames_per_second)
            frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=duration, loop=0, **options)
    else:
        raise InputError(f"`path` must end in .webp, .gif or .mp4; got '{path.suffix}'.")


def _write_mp4(frames: Sequence[Image.Image], path: Path, frames_per_second: float) -> None:
    from viewfold.errors import MissingExtraError

    try:
        import imageio_ffmpeg  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtraError(
            ".mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg==0.6.0, or write .webp"
        ) from error
    with atomic_write(path) as temporary:
        writer = imageio_ffmpeg.write_frames(str(temporary), frames[0].size, fps=frames_per_second, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(np.asarray(frame.convert("RGB")).tobytes())
        writer.close()
