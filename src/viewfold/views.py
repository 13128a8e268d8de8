"""Views on disk: pixels, cameras and the record of how they were made.

A folder of views is what the flows hand to one another: `generate` writes one, `lift --from` reads one, and so do
nerfstudio (`transforms.json`) and a person (`contact.png`).  Knows no network and no 3D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError
from viewfold.label import UNLABELLED, Label
from viewfold.picture import KeptFields, contact_sheet, kept_fields, read_image, to_pil, write_turntable
from viewfold.store import atomic_write, check_output, read_json, write_json

GROUND = 0.5
"""Grey that pictures with alpha are laid over where they must be opaque: that of the shipped model's training."""

SHEET, TURNTABLE = "contact.png", "turntable.webp"

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
            write_json(temporary / "transforms.json", self._transforms())
            write_json(temporary / "run.json", {"prompt": self.prompt, **self.run})
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

        `label` keeps what the files said, so that it is there again when the views are saved; but for the sheet's mark,
        which is made of pixels: `origin.hook.relabelled` gives that back.

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
        files = [_inside(folder, name) for name in names]
        pictures = [read_image(file) for file in files]
        if len({picture.shape for picture in pictures}) != 1 or pictures[0].shape[1] != pictures[0].shape[2]:
            raise AssetError(f"`{folder}` must hold square pictures of one size; got {[p.shape for p in pictures]}.")
        stacked = torch.stack(pictures)
        run = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
        alpha = stacked[:, 3:] if stacked.shape[1] == 4 else None
        kept = tuple(kept_fields(file, suffix=".png") for file in files)
        together = [_inside(folder, name) for name in (SHEET, TURNTABLE)]
        whole = {file.suffix: kept_fields(file, suffix=file.suffix) for file in together}
        return cls(
            rgb=stacked[:, :3],
            alpha=alpha,
            cameras=cameras,
            prompt=str(run.pop("prompt", "")),
            run=run,
            label=KeptFields(kept, whole),
        )


def _inside(folder: Path, name: str) -> Path:
    if "\0" in name:
        raise AssetError(f"`{folder}` must name its pictures; one name holds a NUL.")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise AssetError(f"`{name}` must lie inside `{folder}`; it points outside.")
    return path
