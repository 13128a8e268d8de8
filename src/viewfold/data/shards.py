"""Shards: posed renders packed into webdataset tars, with an index for exact random access.

A sample is `UID.json` (captions, licence, author, cameras), `UID.000.webp` ... and, once cached, `UID.latents.npy`
(v c h w, float16, the posterior means of the VAE).  The reader finds members by byte offset, so sample i of step s is
the same whoever asks and whenever: resuming is exact and nothing is unpacked.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
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
from viewfold.errors import AssetError, FitError, InputError
from viewfold.picture import read_image
from viewfold.store import atomic_write, read_json

SAMPLES_PER_SHARD = 512
_ENCODER = "VIEWFOLD.latents"  # a field of the tar's own header


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What `pack` or `cache_latents` did."""

    samples: int
    shards: int
    skipped: int
    """Shards that were already complete."""
    failed: list[tuple[str, str]]
    """Samples left out: (uid, reason)."""


def pack(
    renders: str | Path,
    out: str | Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack every finished folder of renders (one with a meta.json) into tars under `out`, sorted by uid.

    A shard that exists is kept, so a stopped run continues.  A damaged sample is named, left out and counted.

    Raises:
        InputError: no finished renders.
    """
    folders = sorted(path.parent for path in Path(renders).glob("*/meta.json"))
    if not folders:
        raise InputError(
            f"`renders` must hold folders with a meta.json; `{renders}` holds none. Run `viewfold render`."
        )
    groups = [folders[i : i + samples_per_shard] for i in range(0, len(folders), samples_per_shard)]
    samples, skipped, failed = 0, 0, []
    for number, group in enumerate(groups):
        target = Path(out) / f"shard-{number:05d}.tar"
        if target.exists():
            skipped += 1
            continue
        with atomic_write(target) as temporary, tarfile.open(temporary, "w") as tar:
            for folder in group:
                try:
                    members = _read_sample(folder)
                except (AssetError, OSError) as error:
                    failed.append((folder.name, str(error)))
                    continue
                for name, content in members.items():
                    _add_member(tar, name, content)
                samples += 1
        if progress:
            progress(number + 1, len(groups))
    return PackReport(samples=samples, shards=len(groups), skipped=skipped, failed=failed)


def _read_sample(folder: Path) -> dict[str, bytes]:
    uid = folder.name
    if "." in uid:
        raise AssetError(f"`{uid}` must not contain a dot; webdataset splits names there. Rename it.")
    members = {f"{uid}.json": json.dumps(read_json(folder / "meta.json")).encode()}
    pictures = sorted(folder.glob("[0-9][0-9][0-9].webp"))
    if not pictures:
        raise AssetError(f"`{folder}` holds no pictures.")
    for picture in pictures:
        read_image(picture)
        members[f"{uid}.{picture.name}"] = picture.read_bytes()
    return members


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


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
        for suffix in sorted(suffix for suffix in self.members if suffix.endswith(".webp")):
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
        for uid, suffix, offset, size in _members(shard):
            samples.setdefault(uid, Sample(uid)).members[suffix] = (shard, offset, size)
    return [samples[uid] for uid in sorted(samples)]


def _members(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    try:
        with tarfile.open(shard) as tar:
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
    return {_encoder_of(shard) for shard in {shard for sample in samples for shard, _, _ in sample.members.values()}}


def _encoder_of(shard: Path) -> str | None:
    """Return the `encoder` that `cache_latents` noted in a shard; `_members` has read the shard."""
    with tarfile.open(shard) as tar:
        tar.next()
        return tar.pax_headers.get(_ENCODER)


def cache_latents(
    folder: str | Path,
    encode: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b c h w"]],
    *,
    encoder: str,
    background: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Give every sample its `UID.latents.npy`, rewriting one shard at a time; a shard that this encoder did is kept.

    Args:
        encode: pictures in [0, 1] -> normalised latents (the pipeline's or a VAE's).
        encoder: tells one encoder from another (the hash of a VAE's weights); the shard's header keeps it.
    """
    shards = sorted(Path(folder).glob("*.tar"))
    samples, skipped, failed = 0, 0, []
    for number, shard in enumerate(shards):
        inside: dict[str, Sample] = {}
        for uid, suffix, offset, size in _members(shard):
            inside.setdefault(uid, Sample(uid)).members[suffix] = (shard, offset, size)
        header = {_ENCODER: encoder}
        if _encoder_of(shard) == encoder and all("latents.npy" in sample.members for sample in inside.values()):
            skipped += 1
            continue
        with atomic_write(shard) as temporary, tarfile.open(temporary, "w", pax_headers=header) as tar:
            for sample in inside.values():
                try:
                    with torch.no_grad():
                        latents = encode(sample.pictures(background=background))
                    if not bool(latents.half().isfinite().all()):
                        raise FitError(
                            f"`encode` must give finite latents; those of {sample.uid} are not. Check the autoencoder."
                        )
                except AssetError as error:
                    failed.append((sample.uid, str(error)))
                    continue
                buffer = io.BytesIO()
                np.save(buffer, latents.half().cpu().numpy(), allow_pickle=False)
                for suffix in sample.members:
                    if suffix != "latents.npy":
                        _add_member(tar, f"{sample.uid}.{suffix}", sample.read(suffix))
                _add_member(tar, f"{sample.uid}.latents.npy", buffer.getvalue())
                samples += 1
        if progress:
            progress(number + 1, len(shards))
    return PackReport(samples=samples, shards=len(shards), skipped=skipped, failed=failed)
