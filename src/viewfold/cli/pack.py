"""`viewfold pack`: from posed or single pictures to shards for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from viewfold.cli.cluster import cluster_of
from viewfold.cli.failures import fail_if_any, list_counts
from viewfold.cli.option import given, unset
from viewfold.cli.progress import progress_bars, stage
from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SelectionFlags:
    """Which samples the shards hold; what is refused is counted, and taken out if it is there."""

    licence: Annotated[tuple[str, ...], arg(metavar="LICENCE ...", help_behavior_hint="")] = ()
    """Take these licences alone; * stands for anything (CC0* CC-BY-4.0)."""
    faces: Annotated[tuple[int, int] | None, unset("LOW HIGH")] = None
    """Fewest and most triangles of an asset."""
    textured: bool = False
    """Take only assets with a texture."""
    coverage: Annotated[float | None, unset("SHARE")] = None
    """Least share of the pixels that show something."""
    likeness: Annotated[int | None, unset("BITS")] = None
    """Leave out what looks like another sample: their hashes differ in at most so many of 192 bits."""
    caption_words: Annotated[int | None, unset("INT")] = None
    """Fewest words of the longest caption."""
    caption_match: Annotated[str | None, unset("REGEX")] = None
    """What a caption must hold, a regular expression."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Pack renders or pictures into webdataset shards; what changed is replaced, what is new is added."""

    source: Positional[Annotated[Path, arg(metavar="SOURCE")]]
    """Folder that `viewfold render` wrote, or your own pictures: a folder, or webdataset tars."""
    out: Path
    """Folder to write: shards, manifest.sqlite and ATTRIBUTION.md."""
    latents: Annotated[str | None, unset("MODEL")] = None
    """Also store the latents that this model's autoencoder makes of the pictures; another model's are replaced."""
    grounds: Annotated[tuple[float, ...], arg(metavar="GREY ...", help_behavior_hint="")] = ()
    """With --latents: moments over each of these greys (0 to 1), to draw samples and grounds from; without, means."""
    size: Annotated[int | None, unset("INT")] = None
    """Of your own pictures: pixels of the square that each is cut and scaled to; by default 64."""
    caption_from_name: bool = False
    """Of your own pictures: caption one that has none after its file."""
    prune: bool = False
    """Take out samples that SOURCE no longer has; by default they stay."""
    workers: int = 1
    """Processes that read and check the samples."""
    cluster: Annotated[str | None, unset("auto|ADDRESS")] = None
    """Ray cluster that reads and checks them, in place of processes: the one of this machine, or HOST:PORT."""
    selection: SelectionFlags = SelectionFlags()

    def run(self) -> None:
        """Pack them and say how many there are."""
        from viewfold.data.packing import pack
        from viewfold.data.selection import Selection

        if self.grounds and self.latents is None:
            raise InputError("`grounds` must come with `latents`, the model whose autoencoder looks at the pictures.")
        selection = Selection(**vars(self.selection))
        items = self._items()
        with self._pool() as pool, progress_bars() as report:
            done = pack(
                items, self.out, selection=selection, prune=self.prune, pool=pool, progress=stage(report, "pack")
            )
            failed = list(done.failed)
            if self.latents is not None and done.shards:
                failed += self._cache(self.latents, stage(report, "latents"))
        print(f"{self.out}: {done.samples} samples packed into {done.shards} shards, {done.kept} were there already")
        list_counts(
            {
                "replaced, for they changed": done.replaced,
                "kept although SOURCE no longer has them (--prune takes them out)": done.gone,
                "taken out": done.removed,
                **{f"left out: {reason}": count for reason, count in sorted(done.refused.items())},
            }
        )
        fail_if_any(failed)

    def _pool(self) -> Any:
        """Return whoever reads samples besides this process, to be used with `with`."""
        if self.workers < 1:
            raise InputError(f"`workers` must be at least 1; got {self.workers}.")
        if self.cluster is not None or self.workers == 1:
            return cluster_of(self.cluster, self.out, workers=self.workers)
        from viewfold.data.workers import Workers

        return Workers(self.workers)

    def _cache(self, name: str, progress: Callable[[int, int], None]) -> list[tuple[str, str]]:
        """Cache latents or moments; return what failed."""
        import torch

        from viewfold.data.inventory import refresh_manifest
        from viewfold.data.latents import cache_latents
        from viewfold.model.weights_hash import hash_tensors
        from viewfold.pipeline import load
        from viewfold.pipeline.moments import encode_moments

        model = load(name, dtype=torch.float32)  # a network learns from these; half precision stays in
        encoder = hash_tensors(sorted(model.vae.state_dict().items())).hexdigest()
        encode = partial(encode_moments, model) if self.grounds else model.encode
        done = cache_latents(self.out, encode, encoder=encoder, grounds=self.grounds or None, progress=progress)
        refresh_manifest(self.out)
        return done.failed

    def _items(self) -> Any:
        """Return what there is to pack: renders if there are any, else pictures."""
        from viewfold.data.gallery import find_pictures
        from viewfold.data.packing import find_renders

        source = self.source if self.cluster is None else self.source.resolve()  # workers have folders of their own
        if next(source.glob("*/meta.json"), None) is None and source.exists():
            return find_pictures(source, from_name=self.caption_from_name, **given({"size": self.size}))
        if self.size is not None or self.caption_from_name:
            name = "size" if self.size is not None else "caption_from_name"
            raise InputError(f"`{name}` must be given to `viewfold render`; {self.source} holds renders.")
        return find_renders(source)
