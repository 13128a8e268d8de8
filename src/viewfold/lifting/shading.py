"""The light of a step of distillation: a lamp near each camera, a share of ambient light, or none at all.

Light that is drawn anew in each step cannot be painted into the colours; and a surface without colour that is lit must
show the object by its shape alone.  Source: DreamFusion, section 3.1 and appendix A.2; numbers of MVDream-threestudio,
`diffuse-with-point-light-material`.  Lights the samples of a volume, and knows nothing of what they were taken from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.rendering import Rendering


@dataclass(frozen=True, kw_only=True)
class Shading:
    """How light is drawn."""

    albedo_steps: int = 5000
    """Steps at first that show colours without light (`ambient_only_steps`)."""

    shaded_share: float = 0.75
    """Share of the later steps, 0 to 1, that are lit (`diffuse_prob`)."""

    textureless_share: float = 0.5
    """Share of the lit steps, 0 to 1, in which everything is white (`textureless_prob`)."""

    ambient: tuple[float, float] = (0.0, 1.0)
    """Range of the share of light that comes from everywhere, uniform, one for all pictures of a step
    (`soft_shading`)."""

    light_distance: tuple[float, float] = (0.4, 0.75)
    """Range of the lamp's distance from the centre, in world units (`light_distance_range` 0.8 to 1.5, in a scene twice
    as large); one for all views of an object."""

    light_spread: float = 0.5
    """Standard deviation, in world units, by which a lamp's direction strays from its camera's position
    (`light_position_perturb` 1.0, in a scene twice as large); one stray for all views of an object."""

    def __post_init__(self) -> None:
        if self.albedo_steps < 0:
            raise InputError(f"`albedo_steps` must not be negative; got {self.albedo_steps}.")
        for name in ("shaded_share", "textureless_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` must lie between 0 and 1; got {getattr(self, name)}.")
        if not 0 <= self.ambient[0] <= self.ambient[1] <= 1:
            raise InputError(f"`ambient` must be a range within 0 to 1; got {self.ambient}.")
        if not 0 < self.light_distance[0] <= self.light_distance[1] < float("inf"):
            raise InputError(f"`light_distance` must be a range above 0; got {self.light_distance}.")
        if not 0 <= self.light_spread < float("inf"):
            raise InputError(f"`light_spread` must be a finite number of at least 0; got {self.light_spread}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lighting:
    """The light of one step."""

    position: Float[Tensor, "v 3"]
    """Of the lamp of each picture, in the world."""

    ambient: float
    """Share of the light that comes from everywhere, 0 to 1."""

    textureless: bool
    """Whether everything is white."""


def draw_lighting(
    shading: Shading, cameras: Cameras, *, step: int, n_views: int, generator: torch.Generator | None = None
) -> Lighting | None:
    """Return the light of a step, or None if it shows colours alone.

        lamp of view v = distance (camera_v + spread stray) / |camera_v + spread stray|,   stray standard normal

    Stray and distance are one for the views of an object, as released; the lamps differ, for they follow the cameras.

    Args:
        cameras: on the CPU, `n_views` of each object one after the other.
        step: of the optimisation, counted from 0.
        generator: of everything random, on the CPU.
    """
    if step < shading.albedo_steps or float(torch.rand((), generator=generator)) >= shading.shaded_share:
        return None
    textureless = float(torch.rand((), generator=generator)) < shading.textureless_share
    low, high = shading.ambient
    ambient = low + (high - low) * float(torch.rand((), generator=generator))
    n_objects = len(cameras) // n_views
    stray = shading.light_spread * torch.randn(n_objects, 3, generator=generator).repeat_interleave(n_views, dim=0)
    near, far = shading.light_distance
    distance = near + (far - near) * torch.rand(n_objects, 1, generator=generator).repeat_interleave(n_views, dim=0)
    position = distance * normalize(cameras.position + stray, dim=-1)
    return Lighting(position=position, ambient=ambient, textureless=textureless)


def shade(rendered: Rendering, lighting: Lighting) -> Rendering:
    """Return the pictures with every sample lit before it is composited: soft Lambert shading of a point light.

        colour = base (ambient + (1 - ambient) max(0, n . l)),   l = (lamp - p) / |lamp - p|

    with base the sample's colour, or white, n its normal and p its position.  Normals are not turned to the camera.

    Args:
        rendered: with samples, as `render(..., normals=True)` of a volume gives them.
        lighting: on any device.

    Raises:
        InputError: pictures without samples.
    """
    samples = rendered.samples
    if samples is None:
        raise InputError(
            "`shading` must be None for a representation whose pictures have no samples along their rays; got a "
            "Shading. Use one that is a volume, such as a grid."
        )
    n_pixels = rendered.rgb.shape[-2] * rendered.rgb.shape[-1]
    lamp = lighting.position.to(samples.position)[samples.pixel // n_pixels]
    toward = normalize(lamp - samples.position, dim=-1)
    lambert = (samples.normal * toward).sum(dim=-1, keepdim=True).clamp_min(0)
    factor = lighting.ambient + (1 - lighting.ambient) * lambert
    lit = factor.expand(-1, 3) if lighting.textureless else samples.rgb * factor
    n, _, height, width = rendered.rgb.shape
    picture = rendered.rgb.new_zeros(n * n_pixels, 3).index_add(0, samples.pixel, samples.weight[:, None] * lit)
    return replace(rendered, rgb=picture.reshape(n, height, width, 3).permute(0, 3, 1, 2))
