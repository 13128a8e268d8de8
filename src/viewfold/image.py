"""Views on disk: pixels, cameras and the record of how they were made.

A folder of views is what the flows hand to one another: `generate` writes one, `lift --from` reads one, and so do
nerfstudio (`transforms.json`) and a person (`contact.png`).  Knows no network and no 3D.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError, OutputError, ViewfoldError
from viewfold.provenance import given_places, payload, picture_fields
from viewfold.watermark import MIN_EDGE, embed

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 4096 * 4096
"""A picture with more pixels is refused before it is decoded."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read, in Pillow's words; of its other formats some start programs (EPS) or are seldom looked after."""

MAX_JSON_BYTES = 16 * 2**20

VIEW_FILES = r"\d{3}\.png|contact\.png|turntable\.webp|transforms\.json|run\.json|\.DS_Store"
"""Names in a folder of views; a folder that holds anything else is never replaced."""

CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}
_FULL_BYTES = 2**20
"""With less space than this a writer that fails without a reason has run out of it."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` if the block succeeds.

    The block may create a file or a folder there.  On any failure, Ctrl-C included, nothing is left behind.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    path = Path(path).absolute() if not Path(path).name else Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary = holder / path.name
        yield temporary
        _replace(temporary, path)
    except ViewfoldError:
        raise
    except Exception as error:
        code = _write_failure(error, path.parent)
        if code is None:
            raise
        reason = os.strerror(code).lower()
        raise OutputError(f"`{path}` cannot be written: {reason}. Free the space or name another place.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary.parent, ignore_errors=True)


def _write_failure(error: Exception, folder: Path) -> int | None:
    """Return why a block could not write, as an errno; None if the place is not to blame.

    torch.save and safetensors report a full disk without an errno.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in CANNOT_WRITE else None
    if "os error 28" in str(error) or "No space left" in str(error):
        return errno.ENOSPC
    if isinstance(error, (OSError, RuntimeError)) and folder.is_dir() and shutil.disk_usage(folder).free < _FULL_BYTES:
        return errno.ENOSPC
    return None


def check_output(path: str | Path, *, holds: str | None = None) -> None:
    """Fail before the work if a result could not be put at `path`: a file, or a folder of names that match `holds`.

    A folder is replaced whole; one that holds other names is refused, for they would be lost.

    Raises:
        OutputError: the place is taken by something else, or cannot be written.
    """
    path = Path(os.path.abspath(path))
    reason = None
    try:
        above = next(folder for folder in path.parents if folder.exists())
        if not above.is_dir():
            reason = f"{above} is a file"
        elif not os.access(above, os.W_OK | os.X_OK):
            reason = f"there is no permission to write in {above}"
        elif holds is None:
            reason = "it is a folder" if path.is_dir() else None
        elif path.is_dir():
            others = sorted(entry.name for entry in path.iterdir() if not re.fullmatch(holds, entry.name))
            if others:
                more = ", ..." if len(others) > 3 else ""
                reason = f"the folder holds other things, which would be lost ({', '.join(others[:3])}{more})"
            elif Path.cwd().is_relative_to(path):
                reason = "it is the folder that you are in"
        elif path.exists():
            reason = "it is a file"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    if reason is not None:
        raise OutputError(f"`{path}` cannot be written: {reason}. Name another place.")


def _replace(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        retired = temporary.parent / "retired"
        os.replace(path, retired)
        os.replace(temporary, path)
    else:
        os.replace(temporary, path)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Pictures of one object from known cameras."""

    rgb: Float[Tensor, "v 3 h w"]
    """sRGB in [0, 1], over whatever background the maker chose."""

    cameras: Cameras

    alpha: Float[Tensor, "v 1 h w"] | None = None
    """Coverage in [0, 1] where the maker knew it (renders do, samples do not)."""

    prompt: str = ""

    run: dict[str, Any] = field(default_factory=dict)
    """How they were made: resolved configuration, seed, versions, timings; becomes run.json."""

    def __post_init__(self) -> None:
        if self.rgb.ndim != 4 or self.rgb.shape[1] != 3 or len(self.cameras) != len(self.rgb):
            raise InputError(
                f"`rgb` must have the shape ({len(self.cameras)}, 3, h, w), one picture per camera; "
                f"got {tuple(self.rgb.shape)}."
            )

    def __len__(self) -> int:
        return len(self.rgb)

    def save(self, folder: str | Path, *, turntable: bool = True) -> Path:
        """Write 000.png ..., contact.png, turntable.webp, transforms.json (nerfstudio's) and run.json, all or nothing.

        Pictures are RGBA with straight alpha where `alpha` is known, and carry the record of provenance in `run`, if
        there is one.  Returns the folder.

        Raises:
            OutputError: the folder cannot be written, or holds other things than views.
        """
        check_output(folder, holds=VIEW_FILES)
        record = self.run.get("provenance")
        fields, mark = picture_fields(record, suffix=".png"), payload(record)
        given = given_places(record)
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            pictures = self.rgb if self.alpha is None else torch.cat([self.rgb, self.alpha], dim=1)
            for index, picture in enumerate(pictures):
                to_pil(picture).save(temporary / f"{index:03d}.png", **({} if index in given else fields))
            contact_sheet(self.rgb, mark=mark).save(temporary / "contact.png", **fields)
            if turntable and len(self) > 1:
                pace = max(2, len(self) / 4)
                write_turntable(self.rgb, temporary / "turntable.webp", frames_per_second=pace, record=record)
            (temporary / "transforms.json").write_text(json.dumps(self._transforms(), indent=1))
            (temporary / "run.json").write_text(json.dumps({"prompt": self.prompt, **self.run}, indent=1))
        return Path(folder)

    def _transforms(self) -> dict[str, Any]:
        height, width = self.rgb.shape[-2:]
        frames = []
        for index, (pose, fov) in enumerate(
            zip(self.cameras.world_from_camera.tolist(), self.cameras.fov_deg.tolist(), strict=True)
        ):
            focal = 0.5 * width / math.tan(math.radians(fov) / 2)
            intrinsics = {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
            frames.append({"file_path": f"{index:03d}.png", "transform_matrix": pose, **intrinsics})
        return {"camera_model": "OPENCV", "frames": frames}

    @classmethod
    def load(cls, folder: str | Path) -> Views:
        """Read what `save` wrote, or any nerfstudio folder with square pictures centred on the axis.

        Raises:
            AssetError: transforms.json or a picture is missing, damaged, outside the folder, or not square.
        """
        folder = Path(folder)
        document = read_json(folder / "transforms.json")
        try:
            frames = list(document["frames"])
            if not 1 <= len(frames) <= 1024:
                raise AssetError(f"`{folder}/transforms.json` must list 1 to 1024 frames; got {len(frames)}.")
            poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float32)
            sizes = [(frame.get("fl_x", document.get("fl_x")), frame.get("w", document.get("w"))) for frame in frames]
            fov = torch.tensor([math.degrees(2 * math.atan(0.5 * float(w) / float(f))) for f, w in sizes])
            names = [str(frame["file_path"]) for frame in frames]
            cameras = Cameras(world_from_camera=poses, fov_deg=fov)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise AssetError(f"`{folder}/transforms.json` is not a list of posed pictures: {error!r}.") from error
        pictures = [read_image(_inside(folder, name)) for name in names]
        if len({picture.shape for picture in pictures}) != 1 or pictures[0].shape[1] != pictures[0].shape[2]:
            raise AssetError(f"`{folder}` must hold square pictures of one size; got {[p.shape for p in pictures]}.")
        stacked = torch.stack(pictures)
        run = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
        alpha = stacked[:, 3:] if stacked.shape[1] == 4 else None
        return cls(rgb=stacked[:, :3], alpha=alpha, cameras=cameras, prompt=str(run.pop("prompt", "")), run=run)


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MiB; AssetError names the file otherwise."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise AssetError(f"`{path}` must be smaller than {MAX_JSON_BYTES} bytes; got {path.stat().st_size}.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"`{path}` cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise AssetError(f"`{path}` must hold a JSON object; got {type(document).__name__}.")
    return document


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise AssetError(f"`{name}` must lie inside `{folder}`; it points outside.")
    return path
