"""Shards as they are read: webdataset tars with an index of byte offsets, for exact random access.

A sample is `UID.json` (captions, licence, author, cameras), `UID.000.webp` ... and, once cached, what the VAE makes of
its pictures, float16 and normalised:

    UID.latents.npy       v c h w      means of the posterior, over the grey 0.5
    UID.moments-080.npy   v 2 c h w    mean and log variance, over the grey 0.80
    UID.moments.npy       v 2 c h w    the same of pictures that no ground shows through

The reader finds members by byte offset, so sample i of step s is the same whoever asks and whenever: resuming is exact
and nothing is unpacked.
"""

from __future__ import annotations

import contextlib
import io
import re
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
from viewfold.data.member import Array, parse_cameras, parse_meta, parse_orbits
from viewfold.data.storage import Readable
from viewfold.errors import AssetError, InputError
from viewfold.picture import read_image
from viewfold.store import open_regular

ENCODER = "VIEWFOLD.latents"
"""A field of the tar's own header: which autoencoder made the latents in it."""

MEANS = "latents.npy"
"""The member that holds means alone."""

_MOMENTS = re.compile(r"moments(?:-(\d{3}))?\.npy")


def moments_suffix(ground: float | None) -> str:
    """Return the name, after the uid, of the moments over a grey ground (0 to 1, in hundredths); None: over any."""
    return "moments.npy" if ground is None else f"moments-{round(100 * ground):03d}.npy"


def ground_of(suffix: str) -> float | None:
    """Return the grey ground that a member of moments is over; None for any.

    Raises:
        ValueError: it is no member of moments.
    """
    match = _MOMENTS.fullmatch(suffix)
    if match is None or (match[1] is not None and int(match[1]) > 100):
        raise ValueError(suffix)
    return None if match[1] is None else int(match[1]) / 100


def holds_latents(suffix: str) -> bool:
    """Tell whether a member is what a network learns from."""
    return suffix == MEANS or _MOMENTS.fullmatch(suffix) is not None


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
        with open_regular(path) as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise AssetError(f"`{path}` is cut short at `{self.uid}.{suffix}`. Pack it again.")
        return content

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The sample's captions, licence, author and cameras."""
        return parse_meta(self.uid, self.read("json"))

    @cached_property
    def cameras(self) -> Cameras | None:
        """The cameras of a 3D sample; None for a 2D picture."""
        return parse_cameras(self.uid, self.meta)

    @property
    def orbits(self) -> int:
        """How many circles of cameras the views come from, one after the other."""
        return parse_orbits(self.uid, self.meta)

    def latents(self) -> Float[Tensor, "v c h w"]:
        """The cached latents, normalised, float32."""
        content = self.read(MEANS)
        return torch.from_numpy(Array.of(f"{self.uid}.{MEANS}", content, axes=4).values(content).astype(np.float32))

    def pictures(self, *, background: float = 0.5) -> Float[Tensor, "v 3 h w"]:
        """The pictures over a grey background, in [0, 1]."""
        return torch.stack([_over(picture, background) for picture in self._decoded()])

    def pictures_over(self, grounds: Iterable[float]) -> dict[float | None, Float[Tensor, "v 3 h w"]]:
        """The pictures over each of several greys, or under None once, if no ground shows through any of them."""
        decoded = self._decoded()
        if all(picture.shape[0] == 3 or bool((picture[3] == 1).all()) for picture in decoded):
            return {None: torch.stack([picture[:3] for picture in decoded])}
        return {ground: torch.stack([_over(picture, ground) for picture in decoded]) for ground in grounds}

    def _decoded(self) -> list[Float[Tensor, "c h w"]]:
        suffixes = sorted((s for s in self.members if s.endswith(".webp")), key=lambda s: (len(s), s))
        decoded = [_decode(self.read(suffix), f"{self.uid}.{suffix}") for suffix in suffixes]
        if len({picture.shape[1:] for picture in decoded}) != 1:
            raise AssetError(f"`{self.uid}` must have pictures, all of one size; got {len(decoded)}. Pack it again.")
        return decoded


def _over(picture: Float[Tensor, "c h w"], ground: float) -> Float[Tensor, "3 h w"]:
    return picture if picture.shape[0] == 3 else picture[:3] * picture[3:] + ground * (1 - picture[3:])


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
    with _readable(str(shard)), open_regular(shard) as file:
        yield from walk(file, str(shard), {})


def walk(file: Readable, name: str, header: dict[str, str]) -> Iterator[tuple[str, str, int, int]]:
    """Yield uid, suffix, offset and bytes of each file in an open tar, whose own fields go into `header`.

    The file may be read elsewhere in between.
    """
    with _readable(name), tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # it would keep all that it has seen
            header.update(tar.pax_headers)
            usable = member.isfile() and not member.issparse() and "/" not in member.name
            if not usable or member.size > limits.SHARD_MEMBER_BYTES:
                raise AssetError(f"`{name}` holds an unusable member '{member.name}' of {member.size} bytes.")
            uid, _, suffix = member.name.partition(".")
            yield uid, suffix, member.offset_data, member.size
        file.seek(tar.offset)
        if len(file.read(512)) < 512:  # tarfile takes a tar that is cut between two members for a whole one
            raise tarfile.ReadError("cut short, for its end is missing")


class _Bounded:
    """A file whose single read is of a reasonable size: a tar's header may ask for any."""

    def __init__(self, file: Readable) -> None:
        self.seek, self.tell, self._read, self.name = file.seek, file.tell, file.read, None

    def read(self, size: int) -> bytes:
        if not 0 <= size <= limits.SHARD_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise AssetError(f"`{name}` cannot be read: {reason}. Delete it and pack again.") from error


def latent_encoders(samples: Iterable[Sample]) -> set[str | None]:
    """Return which encoders made the cached latents of samples, as given to `cache_latents`; None where unknown."""
    return {encoder_of(shard) for shard in {shard for sample in samples for shard, _, _ in sample.members.values()}}


def encoder_of(shard: Path) -> str | None:
    """Return the `encoder` that `cache_latents` noted in a shard; `members` has read the shard."""
    header: dict[str, str] = {}
    with open_regular(shard) as file:
        next(walk(file, str(shard), header), None)
    return header.get(ENCODER)
