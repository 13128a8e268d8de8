"""Shards of cached latents in miniature, whose numbers say which sample, view and camera they are of."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from fakes import LATENT_CHANNELS, LATENT_SIZE

from viewfold.camera import Cameras

SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)


def write_shards(
    folder: Path, *, samples: int = 6, orbits: int = 1, views: int = 8, posed: bool = True, encoder: str | None = None,
    caption: str | tuple[str, ...] = "a red mug", latents: dict[str, np.ndarray] | None = None,
    meta: dict[str, object] | None = None, each: int = 1, first: int = 0, number: int = 0,
    grounds: tuple[float, ...] | None = None,
) -> Path:  # fmt: skip
    """Write a shard; latents are noise but for channel 0, which holds the azimuth of the view's camera in turns.

    `latents` replaces those of the samples that it names; of several captions each sample has `each`, in turn;
    `meta` stands for every sample's own.  Uids begin at `first`, and `number` is the shard's.  With `grounds` there are
    moments: the mean plus the ground, and log variances of -4.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    header = {} if encoder is None else {"VIEWFOLD.latents": encoder}
    with tarfile.open(folder / f"shard-{number:05d}.tar", "w", pax_headers=header) as tar:
        for thing in range(first, first + samples):
            uid = f"asset{thing}"
            start = 7.0 * thing
            circles = [
                Cameras.orbit(views, elevation_deg=10.0 * circle, azimuth_deg=start + 3 * circle)
                for circle in range(orbits)
            ]
            cameras = Cameras.cat(circles) if posed else circles[0][0]
            values = rng.standard_normal((len(cameras), *SHAPE)).astype(np.float16)
            values[:, 0] = (cameras.azimuth_deg / 360).numpy()[:, None, None]
            values = (latents or {}).get(uid, values)
            wordings = (caption,) if isinstance(caption, str) else caption
            said = [wordings[(thing + place) % len(wordings)] for place in range(each)]
            info: dict[str, object] = {"captions": said, "views": None, "render": {"orbits": orbits}}
            if posed:
                poses = cameras.world_from_camera.flatten(1).tolist()
                info["views"] = [{"world_from_camera": pose, "fov_deg": 40.0} for pose in poses]
            info = info if meta is None else meta
            content = {"json": json.dumps(info).encode()}
            if grounds is None:
                content["latents.npy"] = as_npy(values)
            for ground in grounds or ():
                moments = np.stack([values + np.float16(ground), np.full_like(values, -4)], axis=1)
                content[f"moments-{round(100 * ground):03d}.npy"] = as_npy(moments)
            for suffix, body in content.items():
                member = tarfile.TarInfo(f"{uid}.{suffix}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    return folder


def azimuth_of(cameras: Cameras, n_objects: int) -> torch.Tensor:
    """Return the azimuth, in turns, of each view of each object ("b v")."""
    return cameras.azimuth_deg.unflatten(0, (n_objects, -1)) / 360


def as_npy(values: np.ndarray) -> bytes:
    """Return an array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
