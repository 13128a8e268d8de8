"""Single pictures: read from untrusted files, written, laid out side by side, turned into an animation.

Below views; it knows pixels alone, no cameras and no networks.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.errors import AssetError, InputError, MissingExtraError
from viewfold.label import UNLABELLED, Label, Unlabelled
from viewfold.store import atomic_write, read_regular

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112
"""EXIF's tag: 1 as it stands; 2 mirrored; 3 upside down; 4 both; 5 to 8 the same with rows and columns exchanged."""

_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""From PNG's grey of 2 and 4 bits to that of 8, which Pillow makes of the pixels but not of the transparent one."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read, in Pillow's words; of its other formats some start programs (EPS) or are seldom looked after."""


def to_pil(rgb: Float[Tensor, "c h w"]) -> Image.Image:
    """Return an 8-bit picture of `c` = 3 (RGB) or 4 (RGBA, straight alpha) channels in [0, 1]."""
    from PIL import Image

    array = (rgb.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def read_image(path: str | Path | io.BytesIO, *, at_least: int | None = None) -> Float[Tensor, "c h w"]:
    """Read a picture as RGB, or RGBA where it has alpha, in [0, 1], turned as its EXIF orientation says.

    Of an animation it is the first frame.  Colour profiles are not applied: numbers are taken for sRGB, as renderers of
    glTF and readers of datasets take them.

    Args:
        at_least: decode a JPEG at a half, a quarter or an eighth of its size, as far as both edges keep so many pixels;
            photographs may then have up to `limits.PHOTO_PIXELS`.  Other kinds come as they are.

    Raises:
        AssetError: the file is missing, not a picture, truncated, or larger than the limits allow.
    """
    try:
        with _opened(path, at_least=at_least) as picture:
            array = _turned(pixels(picture), picture)
    except AssetError:
        raise
    except Exception as error:  # what Pillow raises of a damaged file is not bounded
        reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            reason = f"it is none of {', '.join(FORMATS)}"
        raise AssetError(f"{_name(path)} cannot be read as a picture: {reason}.") from error
    return torch.from_numpy(array.copy()).permute(2, 0, 1)  # a turned one has negative strides


def _name(path: str | Path | io.BytesIO) -> str:
    return "it" if isinstance(path, io.BytesIO) else f"`{path}`"


@contextlib.contextmanager
def _opened(path: str | Path | io.BytesIO, *, at_least: int | None = None) -> Iterator[Image.Image]:
    """Open a picture of a reasonable size, of which its header alone has been read."""
    from PIL import Image

    content = path if isinstance(path, io.BytesIO) else io.BytesIO(read_regular(path, max_bytes=limits.PICTURE_BYTES))
    _check_webp(content)
    with Image.open(content, formats=FORMATS) as picture:
        if at_least and picture.width * picture.height <= limits.PHOTO_PIXELS:
            picture.draft(None, (at_least, at_least))  # changes its size  # pyright: ignore[reportArgumentType]
        if picture.width * picture.height > limits.PICTURE_PIXELS:
            raise AssetError(
                f"{_name(path)} must have at most {limits.PICTURE_PIXELS} pixels; got {picture.size}. Make it smaller."
            )
        yield picture


def _check_webp(content: io.BytesIO) -> None:
    """Refuse a WebP whose header claims too many pixels: to open it already makes room for two canvases."""
    head = content.getvalue()[:30]
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        if width * height > limits.PICTURE_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, more than {limits.PICTURE_PIXELS}")


def _turned(array: Float[np.ndarray, "h w c"], picture: Image.Image) -> Float[np.ndarray, "height width c"]:
    """Turn and mirror pixels as their picture's EXIF says; as they are where that cannot be read."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # what is wrong with the EXIF is no matter of the pixels
        return array
    array = array.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else array
    array = array[::-1] if orientation in (3, 4, 7, 8) else array
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def pixels(picture: Image.Image) -> Float[np.ndarray, "h w c"]:
    """Return a picture's pixels as float32 sRGB in [0, 1]: 3 channels, or 4 with straight alpha where it has any.

    Sixteen-bit grey is scaled, not clipped; sixteen-bit colour keeps the eight bits that Pillow reads.  A palette, CMYK
    and grey become RGB; a colour that stands for nothing (PNG's tRNS, GIF's) becomes an alpha of zero.  Give it a
    picture that was not loaded yet: of grey of fewer than eight bits that colour can be told only then.

    Raises:
        AssetError: a colour of 16 bits stands for nothing, which Pillow has lost.
        OSError: the picture is truncated.
    """
    key = picture.info.get("transparency")
    if isinstance(key, int) and picture.tile:  # pyright: ignore[reportAttributeAccessIssue]
        picture.info["transparency"] = key * _GREY_STEPS.get(str(picture.tile[0].args), 1)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(key, tuple) and max(key) > 255:
        raise AssetError("the picture must have 8 bits a channel to have a transparent colour; it has 16. Convert it.")
    picture.load()
    if picture.mode.startswith("I"):  # I;16 of a PNG; I where Pillow has widened it
        grey = np.asarray(picture).astype(np.float32)
        channels = [(grey / 65535).clip(0, 1)] * 3 + ([(grey != key).astype(np.float32)] if key is not None else [])
        return np.stack(channels, axis=2)
    if picture.mode == "F":
        return np.repeat(np.asarray(picture, np.float32).clip(0, 1)[..., None], 3, axis=2)
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    return np.asarray(picture.convert("RGBA" if has_alpha else "RGB")).astype(np.float32) / 255


@dataclass(frozen=True)
class KeptFields(Unlabelled):
    """A label that copies the metadata of the files that views were loaded from, unread and whoever wrote it."""

    views: tuple[dict[str, Any], ...] = ()
    """Options of Pillow's `save` for each picture."""

    whole: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same by the suffix of the files that show all of them: the sheet's and the turntable's."""

    def picture_options(self, suffix: str, *, view: int | None = None) -> dict[str, Any]:
        """Return what the file said that this one stands for."""
        if view is None:
            return self.whole.get(suffix, {})
        return self.views[view] if suffix == ".png" and view < len(self.views) else {}


def kept_fields(path: str | Path, *, suffix: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` that write a file's own fields into a .png or .webp; none if it has none.

    Kept are the XMP, and what both kinds of file have: texts from PNG to PNG, EXIF from WebP to WebP.  What follows the
    pixels of a PNG, or is longer than `limits.PICTURE_FIELDS` in all, is left out.
    """
    from PIL.PngImagePlugin import PngInfo, iTXt

    try:
        with _opened(path) as picture:
            found, kind = {str(name): value for name, value in picture.info.items()}, picture.format
    except Exception:  # a file that is damaged has nothing to keep
        return {}
    packet = found["xmp"] if isinstance(found.get("xmp"), bytes) else b""
    if suffix == ".webp":
        kept = {"xmp": packet} | ({"exif": found["exif"]} if kind == "WEBP" and "exif" in found else {})
        return kept if 0 < sum(map(len, kept.values())) <= limits.PICTURE_FIELDS else {}
    texts = {name: text for name, text in found.items() if kind == "PNG" and isinstance(text, str)}
    if packet and kind != "PNG":
        texts = {"XML:com.adobe.xmp": iTXt(packet.decode("utf-8", "replace"))}
    if not 0 < sum(map(len, texts.values())) <= limits.PICTURE_FIELDS:
        return {}
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    return {"pnginfo": info}


def contact_sheet(
    rgb: Float[Tensor, "v 3 h w"], *, columns: int | None = None, gap: int = 2, label: Label = UNLABELLED
) -> Image.Image:
    """Lay pictures out in rows of `columns` (default: all in one row up to 8), with a white gap.

    Marks of the pictures cannot be read from the sheet; `label` gives it one of its own.
    """
    n_views, _, height, width = rgb.shape
    columns = columns or min(n_views, 8)
    rows = math.ceil(n_views / columns)
    sheet = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, picture in enumerate(rgb.detach().float().cpu()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return to_pil(label.mark(sheet[None])[0])


def write_turntable(
    rgb: Float[Tensor, "v 3 h w"], path: str | Path, *, frames_per_second: float = 15.0, label: Label = UNLABELLED
) -> None:
    """Write views as an animation: .webp or .gif with Pillow, .mp4 if imageio-ffmpeg is installed.

    What `label` says goes into the file's fields (not into .mp4's).

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
        options |= label.picture_options(path.suffix)
        with atomic_write(path) as temporary:
            duration = round(1000 / frames_per_second)
            frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=duration, loop=0, **options)
    else:
        raise InputError(f"`path` must end in .webp, .gif or .mp4; got '{path.suffix}'.")


def check_mp4() -> None:
    """Raise the `MissingExtraError` of `write_turntable`, before the work."""
    try:
        import imageio_ffmpeg  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            ".mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg==0.6.0, or write .webp"
        ) from error


def _write_mp4(frames: Sequence[Image.Image], path: Path, frames_per_second: float) -> None:
    check_mp4()
    import imageio_ffmpeg  # type: ignore[import-not-found]

    with atomic_write(path) as temporary:
        writer = imageio_ffmpeg.write_frames(str(temporary), frames[0].size, fps=frames_per_second, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(np.asarray(frame.convert("RGB")).tobytes())
        writer.close()
