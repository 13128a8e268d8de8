"""Shards as they are read: webdataset tars with an index of byte offsets, for exact random access.

A sample is `UID.json` (captions, licence, author, cameras), `UID.000.webp` ... and, once cached, `UID.latents.npy`
(v c h w, float16, the posterior means of the VAE).  The reader finds members by byte offset, so sample i of step s is
the same whoever asks and whenever: resuming is exact and nothing is unpacked.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError
from viewfold.picture import read_image
from viewfold.store import open_regular

ENCODER = "VIEWFOLD.latents"
"""A field of the tar's own header: which autoencoder made the latents in it."""


@dataclass(frozen=True)
class Sample:
    """Where one sample's members lie: suffix -> (shard, offset, bytes)."""

    uid: str
    members: dict[str, tuple[Path, int, int]] = field(default_factory=dict)

    def read(self, suffix: str) -> bytes:
        """Return the bytes of one member; AssetError if it is absent or cut short."""
        if suffix not in self.members:
            raise AssetError(f"`{self.uid}` has no member '{suffix}'; it has {sorted(self.members)}.")
        path, offset, size = self.members[suffix]
        handle = os.open(path, os.O_RDONLY)
        try:
            content = os.pread(handle, size, offset)
        finally:
            os.close(handle)
        if len(content) != size:
            raise AssetError(f"`{path}` is cut short at `{self.uid}.{suffix}`. Pack it again.")
        return content

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The sample's captions, licence, author and cameras."""
        try:
            meta = json.loads(self.read("json"))
        except ValueError as error:
            raise AssetError(f"`{self.uid}.json` cannot be read: {error}.") from error
        captions = meta.get("captions") if isinstance(meta, dict) else None
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise AssetError(f"`{self.uid}.json` must hold captions, a list of texts.")
        return meta

    @cached_property
    def cameras(self) -> Cameras | None:
        """The cameras of a 3D sample; None for a 2D picture."""
        stored = self.meta.get("views")
        if not stored:
            return None
        try:
            poses = torch.tensor([camera["world_from_camera"] for camera in stored], dtype=torch.float32)
            fov = torch.tensor([float(camera["fov_deg"]) for camera in stored])
            return Cameras(world_from_camera=poses.reshape(-1, 4, 4), fov_deg=fov)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AssetError(f"`{self.uid}.json` must hold cameras, poses and lenses: {error!r}.") from error

    @property
    def orbits(self) -> int:
        """How many circles of cameras the views come from, one after the other."""
        render = self.meta.get("render", {})
        orbits = render.get("orbits", 1) if isinstance(render, dict) else 0
        if not isinstance(orbits, int) or orbits < 1:
            raise AssetError(f"`{self.uid}.json` must give at least 1 orbit; got {orbits!r}.")
        return orbits

    def latents(self) -> Float[Tensor, "v c h w"]:
        """The cached latents, normalised, float32."""
        content = self.read("latents.npy")
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
            if array.ndim != 4 or array.dtype.kind != "f":
                raise ValueError(f"an array of {array.dtype} and {array.ndim} axes")
        except (ValueError, OSError, EOFError, TypeError, MemoryError) as error:
            reason = str(error).split("\n")[0]
            raise AssetError(f"`{self.uid}.latents.npy` must hold floats (v, c, h, w); got {reason}.") from error
        return torch.from_numpy(array.astype(np.float32))

    def pictures(self, *, background: float = 0.5) -> Float[Tensor, "v 3 h w"]:
        """The pictures over a grey background, in [0, 1]."""
        decoded = []
        for suffix in sorted((s for s in self.members if s.endswith(".webp")), key=lambda s: (len(s), s)):
            picture = _decode(self.read(suffix), f"{self.uid}.{suffix}")
            if picture.shape[0] == 4:
                picture = picture[:3] * picture[3:] + background * (1 - picture[3:])
            decoded.append(picture)
        return torch.stack(decoded)


def _decode(content: bytes, name: str) -> Float[Tensor, "c h w"]:
    try:
        return read_image(io.BytesIO(content))
    except AssetError as error:
        raise AssetError(f"`{name}`: {error}") from error


def open_shards(folder: str | Path) -> list[Sample]:
    """Index every tar under a folder; samples come sorted by uid.

    Raises:
        InputError: no shard there.
        AssetError: a tar is damaged, or a member is larger than 64 MiB or named outside the folder.
    """
    shards = sorted(Path(folder).glob("*.tar"))
    if not shards:
        raise InputError(f"`shards` must hold .tar files; `{folder}` holds none. Run `viewfold pack`.")
    samples: dict[str, Sample] = {}
    for shard in shards:
        for uid, suffix, offset, size in members(shard):
            samples.setdefault(uid, Sample(uid)).members[suffix] = (shard, offset, size)
    return [samples[uid] for uid in sorted(samples)]


def members(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield uid, suffix, offset and bytes of each file in a shard; AssetError if it is damaged."""
    try:
        with open_regular(shard) as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                if not member.isfile() or "/" in member.name or member.size > limits.SHARD_MEMBER_BYTES:
                    raise AssetError(f"`{shard}` holds an unusable member '{member.name}' of {member.size} bytes.")
                uid, _, suffix = member.name.partition(".")
                yield uid, suffix, member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise AssetError(f"`{shard}` cannot be read: {reason}. Delete it and pack again.") from error


def latent_encoders(samples: Iterable[Sample]) -> set[str | None]:
    """Return which encoders made the cached latents of samples, as given to `cache_latents`; None where unknown."""
    return {encoder_of(shard) for shard in {shard for sample in samples for shard, _, _ in sample.members.values()}}


def encoder_of(shard: Path) -> str | None:
    """Return the `encoder` that `cache_latents` noted in a shard; `members` has read the shard."""
    with tarfile.open(shard) as tar:
        tar.next()
        return tar.pax_headers.get(ENCODER)
