"""Anchors: given views that are kept as they are while others are drawn around them (4 -> 16 views).

Between the sampler and the pipeline.  At each step the known views' latents are replaced by their own, noised to that
step's level, so that the network sees them beside the views that it draws; after the last step they are exact.  Source:
the replacement of RePaint (Lugmayr et al., arXiv 2201.09865, algorithm 1), over views instead of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.sampler import Sampler, draw
from viewfold.errors import InputError
from viewfold.views import GROUND, Views

SAME_CAMERA = 1e-3
"""Largest difference of any number of two poses, and of two fields of view in degrees, that count as one camera."""

FRESH_NOISE = 1.0
"""DDIM's eta around known views.  Noise that is drawn anew lets the others follow: on correlated Gaussian views they go
0.74 of the way that the known ones imply, 0.55 without it (`tests/test_anchors.py`)."""

VIEWS_AT_ONCE = 16
"""Pictures that are encoded in one call; bounds memory, changes nothing else."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchors:
    """Some of the views of a run, the same for every prompt of it."""

    rgb: Float[Tensor, "n 3 s s"]
    """Their pictures, which come out of the run as they are."""

    latents: Float[Tensor, "n c h w"]
    """Normalised latents of them, as `MultiViewPipeline.encode` makes them."""

    places: tuple[int, ...]
    """Which of the run's views they are."""

    def check(self, shape: Sequence[int]) -> None:
        """Refuse latents that do not fit a run of the shape (b, v, c, h, w).

        Raises:
            InputError: other channels or sizes, or places that are not distinct views of the run.
        """
        if tuple(self.latents.shape) != (len(self.places), *shape[2:]):
            wanted = (len(self.places), *shape[2:])
            raise InputError(f"`anchors` must hold latents of the shape {wanted}; got {tuple(self.latents.shape)}.")
        if len(set(self.places)) < len(self.places) or not all(0 <= place < shape[1] for place in self.places):
            raise InputError(f"`anchors` must name different views from 0 to {shape[1] - 1}; got {self.places}.")

    def place(
        self, x: Float[Tensor, "b v c h w"], sampler: Sampler, index: int, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b v c h w"]:
        """Return `x` with the known views at the noise of a step; sample i draws it from generator i.

            x_t[known] = sqrt(alpha_bar_t) latents + sqrt(1 - alpha_bar_t) noise          (RePaint, equation 8a)

        This is DDIM's form; other schedulers add noise in their own (`Sampler.add_noise`).
        """
        noise = draw(self.latents.shape, generators).to(x)
        return self._put(x, sampler.add_noise(self.latents.to(x).expand_as(noise), noise, index))

    def finish(self, x: Float[Tensor, "b v c h w"]) -> Float[Tensor, "b v c h w"]:
        """Return `x` with the known views clean."""
        return self._put(x, self.latents.to(x).expand(len(x), -1, -1, -1, -1))

    def show(self, pictures: Float[Tensor, "b v 3 s s"]) -> Float[Tensor, "b v 3 s s"]:
        """Return the decoded pictures with the known ones as they were given."""
        return self._put(pictures, self.rgb.to(pictures).expand(len(pictures), -1, -1, -1, -1))

    def _put(self, views: Tensor, known: Tensor) -> Tensor:
        return views.index_copy(1, torch.tensor(self.places, device=views.device), known)


def around(given: Views, cameras: Cameras, *, encode: Callable[[Tensor], Tensor], size: int) -> tuple[Anchors, Cameras]:
    """Return what a run around given views needs: the views at their places, and all of its cameras.

    A given view that stands where one of `cameras` does takes its place; the others come first, in their order.

    Args:
        given: views of the object; pictures of another size or with alpha are brought to `size`, on grey.
        cameras: where to look from.
        encode: pictures "n 3 s s" to normalised latents, `MultiViewPipeline.encode`.
        size: of the model's pictures, in pixels.

    Raises:
        InputError: pictures that are not square.
    """
    pictures = opaque(given, size=size)
    cameras, places = _join(given.cameras, cameras)
    with torch.no_grad():
        latents = torch.cat([encode(some) for some in pictures.split(VIEWS_AT_ONCE)])
    return Anchors(rgb=pictures, latents=latents, places=places), cameras


def _join(given: Cameras, cameras: Cameras) -> tuple[Cameras, tuple[int, ...]]:
    """Return the cameras of a run and the place of each given one among them."""
    gaps = (given.world_from_camera[:, None] - cameras.world_from_camera[None]).abs().amax((-1, -2))
    same = torch.maximum(gaps, (given.fov_deg[:, None] - cameras.fov_deg[None]).abs()) < SAME_CAMERA
    found: list[int | None] = []
    for row in same.tolist():
        free = (place for place, hit in enumerate(row) if hit and place not in found)
        found.append(next(free, None))
    extra = [number for number, place in enumerate(found) if place is None]
    places = tuple(extra.index(n) if place is None else len(extra) + place for n, place in enumerate(found))
    return Cameras.cat([given[extra], cameras]) if extra else cameras, places


def opaque(views: Views, *, size: int) -> Float[Tensor, "n 3 s s"]:
    """Return opaque pictures of the model's size; those that are so already come back unchanged.

    Raises:
        InputError: pictures that are not square.
    """
    rgb = views.over(GROUND)
    if rgb.shape[-2] != rgb.shape[-1]:
        raise InputError(f"`given` must hold square pictures; got {rgb.shape[-1]} x {rgb.shape[-2]} pixels. Crop them.")
    if rgb.shape[-1] == size:
        return rgb
    return torch.nn.functional.interpolate(rgb, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
