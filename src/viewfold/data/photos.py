"""Photographs of one subject, as people have them: read from a folder, cut out or kept, framed in squares of one size.

    photos = read_photos("photos", size=64, settings=PhotoSettings(background="remove"))
    photos.rgba, photos.failed, photos.notes

Nothing is squashed, mirrored or left out unsaid.  What is remarkable about the set is remark.py's, the cutting
cutout.py's.  Knows no model and no training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, pad

from viewfold import limits
from viewfold.data.cutout import find_subject, load_opencv
from viewfold.data.remark import remarks
from viewfold.errors import AssetError, InputError
from viewfold.ground import ground_color
from viewfold.picture import FORMATS, read_image
from viewfold.store.regular import open_regular

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp"}
"""Endings of the pictures that are read; in any case of letters."""

FOREIGN = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "a HEIC picture"),
    **dict.fromkeys((".avif", ".jxl", ".tif", ".tiff", ".psd", ".svg"), "of a kind that is not read"),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw"),
        "a camera's raw picture",
    ),
    **dict.fromkeys((".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mts"), "a video"),
}
"""Endings of pictures, and of what holds pictures, that somebody may expect to be read."""

BRANDS = {b"heic": "a HEIC picture", b"heix": "a HEIC picture", b"mif1": "a HEIC picture", b"avif": "an AVIF picture"}
"""What such a file says of itself in its bytes 8 to 12, whatever its name; other brands are videos'."""

LITTER = {"thumbs.db", "desktop.ini"}
"""Files that systems leave in folders of pictures."""

AT_LEAST = 1024
"""Pixels of the shorter edge that are looked at, if there are as many; a subject is cut out of them and then shrunk."""

MAX_ASPECT = 10
"""Of a picture; a longer one is a strip, of which a square would show next to nothing."""

FAINT = 0.05
"""Coverage below this does not belong to the subject's box."""

FILLED = 0.94
"""Share of the frame that a thing as large as the unit sphere reaches, seen by the cameras of `Cameras.at`."""

SMALLEST = 0.9
"""Of `augmented`'s scales."""


Background = Literal["keep", "alpha", "remove"]


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """How pictures of a subject are prepared."""

    background: Background = "keep"
    """Of pictures without transparency of their own: kept, refused (alpha), or removed, the subject cut out."""

    margin: float = 0.1
    """Of a subject that is cut out: the share of the square left free on each side, 0 to 0.4."""

    def __post_init__(self) -> None:
        if self.background not in get_args(Background):
            known = ", ".join(get_args(Background))
            raise InputError(f"`background` must be one of {known}; got {self.background!r}.")
        if not 0 <= self.margin <= 0.4:
            raise InputError(f"`margin` must lie between 0 and 0.4; got {self.margin:g}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """One picture of the subject, framed."""

    rgba: Float[Tensor, "4 size size"]
    """sRGB and coverage in [0, 1], straight; coverage is 1 everywhere if the background was kept."""

    path: Path

    notes: tuple[str, ...] = ()
    """What was done to it that its owner may not expect."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """What a folder holds of a subject."""

    photos: tuple[Photo, ...]
    """One at least, in the order of their names."""

    failed: list[tuple[str, str]]
    """Files that were expected to be used and could not be: (name, reason)."""

    notes: list[str]
    """What to tell the owner, a sentence each; those of the photos included."""

    @property
    def rgba(self) -> Float[Tensor, "n 4 size size"]:
        """All pictures as one tensor."""
        return torch.stack([photo.rgba for photo in self.photos])


def read_photos(folder: str | Path, *, size: int, settings: PhotoSettings = PhotoSettings()) -> Photos:  # noqa: B008
    """Read every picture straight in a folder and frame it in a square of `size` px, 16 to 1024.

    A subject with coverage (its file's own, or found by removing the background) is cropped to its box and the margin.
    Without, the picture is kept whole and padded to a square with the median colour of its own border: cropping could
    cut the subject, squashing would change its shape, and bars of a foreign colour would be learnt as part of it.
    Shrunk by averaging areas, premultiplied; enlarged where it has to be, with a note.

    Raises:
        InputError: no folder, more than `limits.PHOTOS` pictures, or not one that can be used; it says why for each.
        MissingExtraError: backgrounds are to be removed, and OpenCV is not installed.
    """
    if not 16 <= size <= AT_LEAST:
        raise InputError(f"`size` must lie between 16 and {AT_LEAST}; got {size}.")
    if settings.background == "remove":
        load_opencv()
    pictures, failed, strays = _listed(Path(folder))
    photos = []
    for path in pictures:
        try:
            photos.append(_read(path, size=size, settings=settings))
        except AssetError as error:
            failed.append((path.name, _reason(path, error)))
    failed.sort()
    if not photos:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed[:8]) or "it holds no picture"
        raise InputError(f"`folder` must hold pictures ({', '.join(FORMATS)}) that can be used; `{folder}`: {reasons}.")
    notes = [f"left out, no pictures: {', '.join(strays)}"] if strays else []
    notes += [f"{photo.path.name}: {note}" for photo in photos for note in photo.notes]
    notes += remarks(torch.stack([photo.rgba for photo in photos]), [photo.path.name for photo in photos])
    return Photos(photos=tuple(photos), failed=failed, notes=notes)


def augmented(rgba: Float[Tensor, "4 h w"], generator: torch.Generator) -> Float[Tensor, "4 h w"]:
    """Return a picture at 0.9 to 1 of its size, somewhere in its frame, whole; never mirrored, which has other sides.

    What is left free is transparent, or of the nearest colour if the picture is opaque.  The same generator's state
    gives the same picture.
    """
    scale, right, down = torch.rand(3, generator=generator).tolist()
    scale = SMALLEST + (1 - SMALLEST) * scale
    room = 1 - scale  # of half the frame
    shift = [(2 * share - 1) * room for share in (right, down)]
    frame_from_picture = torch.tensor([[1 / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]])
    grid = affine_grid(frame_from_picture[None], [1, 4, *rgba.shape[1:]], align_corners=False)
    is_opaque = bool((rgba[3] >= 1).all())
    filling = "border" if is_opaque else "zeros"
    moved = grid_sample(_premultiplied(rgba)[None].cpu(), grid, padding_mode=filling, align_corners=False)[0]
    return _straight(moved).to(rgba.device)


def framed_alike(rgba: Float[Tensor, "n 4 s s"], *, share: float) -> Float[Tensor, "n 4 s s"] | None:
    """Return pictures of one thing with their subject equally high in all, its box in the middle of the frame.

    A thing is about as high from one side as from another, though not as wide.  Framed by its box alone, it would be
    larger from where it is narrow.

    Args:
        rgba: straight, as `read_photos` returns them.
        share: of the largest height at which no box is wider or higher than `FILLED` of the frame.

    Returns:
        The pictures; None where the subject of one of them is not known, because it is opaque.
    """
    if bool((rgba[:, 3] >= 1).flatten(1).all(dim=1).any()):
        return None
    size, boxes = rgba.shape[-1], [_box(picture[3]) for picture in rgba]
    widest = max(1.0, *((right - left) / (bottom - top) for top, left, bottom, right in boxes))
    height, framed = share * FILLED * size / widest, []
    for picture, (top, left, bottom, right) in zip(rgba, boxes, strict=True):
        side = round(size * (bottom - top) / height)
        corner = ((top + bottom - side) // 2, (left + right - side) // 2)
        framed.append(_straight(_framed(_premultiplied(picture), *corner, side, size=size)))
    return torch.stack(framed)


def _listed(folder: Path) -> tuple[list[Path], list[tuple[str, str]], list[str]]:
    """Return a folder's pictures, what is a picture of another kind with the reason, and the names of all else."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"`folder` must be a folder of pictures; got `{folder}`: {error.strerror}.") from error
    entries = [entry for entry in entries if entry.name.lower() not in LITTER]
    pictures = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if len(pictures) > limits.PHOTOS:
        raise InputError(
            f"`folder` must hold at most {limits.PHOTOS} pictures of one subject; `{folder}` holds {len(pictures)}. "
            "Choose 3 to 8 from different sides."
        )
    foreign = [entry for entry in entries if entry.suffix.lower() in FOREIGN]
    others = [f"{e.name}/" if e.is_dir() else e.name for e in entries if e not in pictures and e not in foreign]
    shown = others if len(others) <= 8 else [*others[:8], f"{len(others) - 8} more"]
    return pictures, [(entry.name, _convert(FOREIGN[entry.suffix.lower()])) for entry in foreign], shown


def _convert(kind: str) -> str:
    return f"it is {kind}; convert it to JPEG or PNG"


def _reason(path: Path, error: AssetError) -> str:
    """Say why a picture failed, without its name; of a phone's picture under another's ending, what it is."""
    try:
        with open_regular(path) as file:
            head = file.read(12)
    except OSError:
        head = b""
    if head[4:8] == b"ftyp":
        return _convert(BRANDS.get(head[8:], "a video"))
    return str(error).removeprefix(f"`{path}` ").removesuffix(".")


def _read(path: Path, *, size: int, settings: PhotoSettings) -> Photo:
    picture, notes = read_image(path, at_least=AT_LEAST), []
    height, width = picture.shape[1:]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise AssetError(f"it is more than {MAX_ASPECT} times as long as wide. Crop it to its subject")
    is_whole = len(picture) == 3 or bool((picture[3] >= 1).all())
    picture = _premultiplied(picture)
    if (step := min(height, width) // AT_LEAST) > 1:
        picture = avg_pool2d(picture, step)
    if is_whole and settings.background == "alpha":
        raise AssetError("it has no transparency. Cut its subject out, or let backgrounds be kept or removed")
    if is_whole and settings.background == "remove":
        coverage = find_subject(picture[:3])
        if isinstance(coverage, str):
            notes.append(f"its background is kept, since {coverage}")
        else:
            picture, is_whole = picture * coverage, False
    top, left, side = _whole(picture) if is_whole else _around(picture[3], margin=settings.margin)
    square = _framed(picture, top, left, side, size=size)
    if is_whole:
        fill = ground_color(picture[None, :3], width=1)[0, :, None, None]
        square = torch.cat([square[:3] + fill * (1 - square[3:]), torch.ones_like(square[3:])])
    if side < size:
        notes.append(f"enlarged from {side} to {size} px, so it shows less than others")
    return Photo(rgba=_straight(square), path=path, notes=tuple(notes))


def _framed(
    picture: Float[Tensor, "4 h w"], top: int, left: int, side: int, *, size: int
) -> Float[Tensor, "4 size size"]:
    """Return a square of a picture, nothing where it reaches beyond; never more than 4096 px across on the way."""
    if (step := side // 2048) > 1:
        picture = avg_pool2d(picture, step)
        top, left, side = round(top / step), round(left / step), round(side / step)
    height, width = picture.shape[1:]
    square = pad(picture, (-left, left + side - width, -top, top + side - height))[None]
    if side < size:
        return interpolate(square, (size, size), mode="bilinear", antialias=True)[0]
    return interpolate(square, (size, size), mode="area")[0]


def _whole(picture: Float[Tensor, "4 h w"]) -> tuple[int, int, int]:
    """Return the smallest square around a picture: its top, left and side in pixels."""
    height, width = picture.shape[1:]
    side = max(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _around(alpha: Float[Tensor, "h w"], *, margin: float) -> tuple[int, int, int]:
    """Return a square with a subject in its middle, which may reach beyond the picture: top, left and side in pixels.

    Raises:
        AssetError: nothing is opaque.
    """
    top, left, bottom, right = _box(alpha)
    side = math.ceil(max(bottom - top, right - left) / (1 - 2 * margin))
    return (top + bottom - side) // 2, (left + right - side) // 2, side


def _box(alpha: Float[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Return the smallest box around a subject: its top, left, bottom and right in pixels.

    Raises:
        AssetError: nothing is opaque.
    """
    inside = (alpha > FAINT).nonzero()
    if not len(inside):
        raise AssetError("it is transparent everywhere")
    (top, left), (bottom, right) = inside.amin(0).tolist(), (inside.amax(0) + 1).tolist()
    return top, left, bottom, right


def _premultiplied(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "4 h w"]:
    """Return colour times coverage, and coverage; 3 channels are opaque."""
    alpha = picture[3:] if len(picture) == 4 else torch.ones_like(picture[:1])
    return torch.cat([picture[:3] * alpha, alpha])


def _straight(premultiplied: Float[Tensor, "4 h w"]) -> Float[Tensor, "4 h w"]:
    """Return the colour itself, black where nothing is, and coverage."""
    alpha = premultiplied[3:].clamp(0, 1)
    return torch.cat([(premultiplied[:3] / alpha.clamp(min=1e-4)).clamp(0, 1), alpha])
