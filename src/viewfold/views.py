"""Views on disk: pixels, cameras and the record of how they were made.

A folder of views is what the flows hand to one another: `generate` writes one, `lift --from` reads one, and so do
nerfstudio (`transforms.json`) and a person (`contact.png`).  Knows no network and no 3D.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.capture.lens import Lens, square_up
from viewfold.capture.placement import find_object
from viewfold.capture.transforms import caption_of, read_frames
from viewfold.errors import AssetError, InputError
from viewfold.formats import RENDER_RECORD, VIEW_RECORDS
from viewfold.label import UNLABELLED, Label
from viewfold.picture import KeptFields, contact_sheet, kept_fields, read_image, to_pil, write_turntable
from viewfold.store import atomic_write, check_output, read_json, write_json

GROUND = 0.5
"""Grey that pictures with alpha are laid over where they must be opaque: that of the shipped model's training."""

SHEET, TURNTABLE = "contact.png", "turntable.webp"

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".bmp", ".gif")
"""Endings of pictures that a frame may leave out, the likeliest first."""

VIEW_FILES = r"\d{3}\.png|contact\.png|turntable\.webp|transforms\.json|run\.json|\.DS_Store"
"""Names in a folder of views; a folder that holds anything else is never replaced."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Pictures of one object from known cameras."""

    rgb: Float[Tensor, "v 3 h w"]
    """sRGB in [0, 1].  Without `alpha`: the pictures as they stand, over a ground of their own.  With it: the colour of
    the object alone, straight as PNG files hold it, which `over` lays on a ground.  Never premultiplied."""

    cameras: Cameras

    alpha: Float[Tensor, "v 1 h w"] | None = None
    """Coverage in [0, 1] where the maker knew it (renders do, samples do not)."""

    prompt: str = ""

    run: dict[str, Any] = field(default_factory=dict)
    """How they were made: resolved configuration, seed, versions, timings; becomes run.json."""

    label: Label = UNLABELLED
    """Metadata that their files carry (`viewfold.label`); of loaded views, what their files said."""

    def __post_init__(self) -> None:
        if self.rgb.ndim != 4 or self.rgb.shape[1] != 3 or len(self.cameras) != len(self.rgb):
            raise InputError(
                f"`rgb` must have the shape ({len(self.cameras)}, 3, h, w), one picture per camera; "
                f"got {tuple(self.rgb.shape)}."
            )

    def __len__(self) -> int:
        return len(self.rgb)

    def over(self, ground: float | Float[Tensor, "v 3"] = GROUND) -> Float[Tensor, "v 3 h w"]:
        """Return opaque pictures: over a grey, or a colour a view, where `alpha` says how much of it is seen."""
        if self.alpha is None:
            return self.rgb
        behind = ground[:, :, None, None] if isinstance(ground, Tensor) else ground
        return self.rgb * self.alpha + behind * (1 - self.alpha)

    def to(self, device: torch.device | str) -> Views:
        """Return the same views on another device."""
        alpha = None if self.alpha is None else self.alpha.to(device)
        return replace(self, rgb=self.rgb.to(device), alpha=alpha, cameras=self.cameras.to(device))

    def save(self, folder: str | Path, *, turntable: bool = True) -> Path:
        """Write 000.png ..., contact.png, turntable.webp, transforms.json (nerfstudio's) and run.json, all or nothing.

        Pictures are RGBA where `alpha` is known, straight as `rgb` is; the sheet and the turntable show them over
        `GROUND`.  Their fields, and the sheet's own mark, are what `label` says.  Returns the folder.

        Raises:
            OutputError: the folder cannot be written, or holds other things than views.
        """
        check_output(folder, holds=VIEW_FILES)
        opaque = self.over()
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            pictures = self.rgb if self.alpha is None else torch.cat([self.rgb, self.alpha], dim=1)
            for index, picture in enumerate(pictures):
                to_pil(picture).save(temporary / f"{index:03d}.png", **self.label.picture_options(".png", view=index))
            sheet = contact_sheet(opaque, label=self.label)
            sheet.save(temporary / SHEET, **self.label.picture_options(".png"))
            if turntable and len(self) > 1:
                pace = max(2, len(self) / 4)
                write_turntable(opaque, temporary / TURNTABLE, frames_per_second=pace, label=self.label)
            write_json(temporary / "transforms.json", self.transforms())
            write_json(temporary / "run.json", {"prompt": self.prompt, **self.run})
        return Path(folder)

    def transforms(self, *, suffix: str = ".png") -> dict[str, Any]:
        """Return what a transforms.json says of pictures 000 ... of that suffix (nerfstudio's)."""
        height, width = self.rgb.shape[-2:]
        frames = []
        for index, (pose, fov) in enumerate(
            zip(self.cameras.world_from_camera.tolist(), self.cameras.fov_deg.tolist(), strict=True)
        ):
            focal = 0.5 * width / math.tan(math.radians(fov) / 2)
            intrinsics = {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
            frames.append({"file_path": f"{index:03d}{suffix}", "transform_matrix": pose, **intrinsics})
        return {"camera_model": "OPENCV", "frames": frames}

    @classmethod
    def load(cls, folder: str | Path) -> Views:
        """Read what `save` wrote, or posed photographs of one object: nerfstudio's, instant-ngp's, Blender's for NeRF.

        What `save` wrote comes back as it was.  Of others' files, pictures that are not square, or whose lens is not a
        centred pinhole, are drawn again through one that shows all of them; and where the object is not about the
        origin with a radius of about 0.5, the cameras are moved and scaled so that it is, which `run["placement"]`
        tells (docs/conventions.md).

        `label` keeps what the files said, so that it is there again when the views are saved; but for the sheet's mark,
        which is made of pixels: `origin.hook.relabelled` gives that back.

        Args:
            folder: holds transforms.json (or transforms_train.json), or is what `viewfold render` wrote of one asset
                (its first caption is the prompt); or such a file itself.

        Raises:
            AssetError: the file or a picture is missing, damaged, outside the folder, or says what is not read.
        """
        path = find_transforms(folder)
        folder, document = path.parent, read_json(path)
        is_own = (folder / "run.json").is_file()
        run = read_json(folder / "run.json") if is_own else caption_of(document)
        try:
            frames = read_frames(document)
            files = [_find_picture(folder, frame.file) for frame in frames]
            pictures = _read_all(files)
            lenses = [frame.lens(p.shape[2], p.shape[1]) for frame, p in zip(frames, pictures, strict=True)]
            pictures, half = _pinholes(pictures, lenses)
            poses = np.stack([frame.world_from_camera for frame in frames])
            if not is_own:
                poses, placed = _about_origin(poses, half, lenses, pictures)
                run |= placed
        except AssetError as error:
            raise AssetError(f"`{path}` cannot be used: {error}") from error
        fov = torch.from_numpy(np.degrees(2 * np.arctan(half))).float()
        kept = tuple(kept_fields(file, suffix=".png") for file in files)
        together = [_inside(folder, name) for name in (SHEET, TURNTABLE)] if is_own else []
        return cls(
            rgb=pictures[:, :3],
            alpha=pictures[:, 3:] if pictures.shape[1] == 4 else None,
            cameras=Cameras(world_from_camera=torch.from_numpy(poses).float(), fov_deg=fov),
            prompt=str(run.pop("prompt", "")),
            run=run,
            label=KeptFields(kept, {file.suffix: kept_fields(file, suffix=file.suffix) for file in together}),
        )


def _pinholes(
    pictures: Sequence[Float[Tensor, "c _ _"]], lenses: Sequence[Lens]
) -> tuple[Float[Tensor, "v c s s"], Float[np.ndarray, "v"]]:
    """Return square pictures of one size, and the tangents of half their fields of view.

    What was square, centred and free of distortion is as it was, if all are of one size.
    """
    half = np.array([lens.framed if lens.is_ours else lens.half_width() for lens in lenses])
    if all(lens.is_ours for lens in lenses) and len({lens.width for lens in lenses}) == 1:
        return torch.stack(list(pictures)), half
    size = 1
    for lens, tangent in zip(lenses, half, strict=True):
        size = max(size, min(round(2 * tangent * max(lens.fl_x, lens.fl_y)), 2 * max(lens.width, lens.height)))
    _check_pixels(size * size * len(pictures))
    warnings.warn(
        f"the pictures are drawn again as square ones of {size} px, through pinhole lenses with a centred axis.",
        stacklevel=3,
    )
    drawn = [square_up(p, lens, half=h, size=size) for p, lens, h in zip(pictures, lenses, half, strict=True)]
    return torch.stack(drawn), half


def _read_all(files: Sequence[Path]) -> list[Float[Tensor, "c h w"]]:
    """Read pictures that all have alpha, or none."""
    pictures, n_pixels = [], 0
    for file in files:
        pictures.append(read_image(file))
        n_pixels += pictures[-1][0].numel()
        _check_pixels(n_pixels)
    if len({len(picture) for picture in pictures}) > 1:
        plain = next(file for file, picture in zip(files, pictures, strict=True) if len(picture) == 3)
        raise AssetError(f"its pictures must all have alpha, or none; {plain.name} has none.")
    return pictures


def _check_pixels(number: int) -> None:
    if number > limits.VIEWS_PIXELS:
        raise AssetError(f"its pictures must have at most {limits.VIEWS_PIXELS} pixels together. Use fewer or smaller.")


def _about_origin(
    poses: Float[np.ndarray, "v 4 4"],
    half: Float[np.ndarray, "v"],
    lenses: Sequence[Lens],
    pictures: Float[Tensor, "v c s s"],
) -> tuple[Float[np.ndarray, "v 4 4"], dict[str, Any]]:
    """Return poses about an object as ours are, and what was done, if that was needed, for run.json."""
    outlines = [picture[3].numpy() >= 0.5 for picture in pictures] if pictures.shape[1] == 4 else None
    found = find_object(poses, half, framed=np.array([lens.framed for lens in lenses]), outlines=outlines)
    if found.is_ours:
        return poses, {}
    center = found.center.tolist()
    warnings.warn(
        f"the cameras are moved and scaled by {found.scale:.4g}, so that the object, at {np.round(center, 4).tolist()} "
        f"and of radius {found.radius:.4g}, is about the origin with a radius of {OBJECT_RADIUS}.",
        stacklevel=3,
    )
    return found.applied(poses), {"placement": {"center": center, "scale": found.scale}}


def find_transforms(folder: str | Path) -> Path:
    """Return the file of cameras in a folder of views, or the one that is named itself.

    Raises:
        AssetError: there is none.
    """
    folder = Path(folder)
    try:
        if folder.suffix == ".json" and not folder.is_dir():
            return folder
        names = (*VIEW_RECORDS, RENDER_RECORD)
        return next((folder / name for name in names if (folder / name).exists()), folder / VIEW_RECORDS[0])
    except (OSError, ValueError) as error:
        raise AssetError(f"`{folder!s}` must be a folder of views: {error}.") from error


def list_pictures(folder: str | Path) -> list[Path]:
    """Return the files of the pictures in a folder of views, unread, in the order of its cameras.

    Raises:
        AssetError: its file of cameras is missing or damaged, or names something outside the folder.
    """
    path = find_transforms(folder)
    document = read_json(path)
    try:
        return [_find_picture(path.parent, frame.file) for frame in read_frames(document)]
    except AssetError as error:
        raise AssetError(f"`{path}` cannot be used: {error}") from error


def _find_picture(folder: Path, name: str) -> Path:
    """Return the picture of a frame, whose suffix may be left out, as Blender's NeRF scenes do."""
    path = _inside(folder, name)
    if path.suffix.lower() in SUFFIXES or path.is_file():
        return path
    return next((found for suffix in SUFFIXES if (found := path.with_name(path.name + suffix)).is_file()), path)


def _inside(folder: Path, name: str) -> Path:
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise AssetError(f"`{name!r:.80}` is no name of a file: {error}.") from error
    if not path.is_relative_to(folder.resolve()):
        raise AssetError(f"`{name}` must lie inside `{folder}`; it points outside.")
    return path
