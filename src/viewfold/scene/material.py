"""What a surface is made of: colours, textures, transparency, light of its own.

Colours are sRGB in [0, 1], alpha is straight.  Files, which have other habits, are read and made elsewhere in `scene`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError

Wrap = Literal["repeat", "clamp", "mirror"]
"""What a texture shows outside [0, 1]: itself again, its edge, or itself reversed at each turn."""

AlphaMode = Literal["opaque", "mask", "blend"]
"""glTF's alphaMode: alpha is ignored, cut off at a threshold, or laid over what lies behind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Texture:
    """A picture on a surface."""

    image: Float[Tensor, "h w c"]
    """sRGB in [0, 1], 3 channels, or 4 with straight alpha; row 0 is the top, where v is 1."""

    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    """Outside [0, 1] along u and along v."""

    nearest: bool = False
    """Show texels as they are when magnified (glTF's NEAREST), instead of bilinearly."""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] not in (3, 4) or 0 in self.image.shape:
            raise InputError(f"`image` must have the shape (h, w, 3 or 4); got {tuple(self.image.shape)}.")
        for wrap in self.wrap:
            if wrap not in get_args(Wrap):
                raise InputError(f"`wrap` must be two of {', '.join(get_args(Wrap))}; got {self.wrap}.")

    def to(self, device: torch.device | str) -> Texture:
        """Return the same texture on another device."""
        return replace(self, image=self.image.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The surface of a set of faces.

    colour = `color` x texture x vertex colour + `emission` x `emission_texture`; alpha = `opacity` x texture's alpha x
    vertex alpha.  What shines is drawn as a colour like any other, in the scene's light: a shape that is lit nowhere
    would have no form.
    """

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """sRGB in [0, 1]."""

    texture: Texture | None = None
    """Looked up at `Mesh.uv`."""

    opacity: float = 1.0
    """0 to 1; counts in the modes "mask" and "blend"."""

    alpha_mode: AlphaMode = "opaque"
    """What alpha does."""

    alpha_cutoff: float = 0.5
    """In the mode "mask": what has less alpha is not there, all else is opaque."""

    emission: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """sRGB in [0, 1]: what the surface shows in the dark; added to the colour."""

    emission_texture: Texture | None = None
    """Looked up at `Mesh.emission_uv`."""

    normal_texture: Texture | None = None
    """Tangent-space normals (scene/relief.py), (n + 1) / 2 and not sRGB, looked up at `Mesh.uv`: for viewers of the
    file.  Our own rasteriser draws the surface without it, and only a GLB keeps it."""

    lit: bool = True
    """False: the colour is drawn as it is, without light (KHR_materials_unlit: scans whose light is in the texture)."""

    roughness: float = 0.8
    """glTF's roughness, 0 to 1; from 0.7 on, our own rasteriser draws even a metal matt (scene/light.py)."""

    metallic: float = 0.0
    """glTF's metallic, 0 to 1."""

    def __post_init__(self) -> None:
        if self.alpha_mode not in get_args(AlphaMode):
            raise InputError(f"`alpha_mode` must be {', '.join(get_args(AlphaMode))}; got {self.alpha_mode!r}.")

    @property
    def textures(self) -> tuple[Texture, ...]:
        """Its textures of colour and light, colour first."""
        return tuple(texture for texture in (self.texture, self.emission_texture) if texture is not None)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for materials of equal numbers that share their textures (the same objects)."""
        return (
            self.color,
            self.opacity,
            self.alpha_mode,
            self.alpha_cutoff,
            self.emission,
            self.lit,
            self.roughness,
            self.metallic,
            None if self.texture is None else id(self.texture),
            None if self.emission_texture is None else id(self.emission_texture),
            None if self.normal_texture is None else id(self.normal_texture),
        )

    def to(self, device: torch.device | str) -> Material:
        """Return the same material with its textures on another device."""
        return replace(
            self,
            texture=None if self.texture is None else self.texture.to(device),
            emission_texture=None if self.emission_texture is None else self.emission_texture.to(device),
            normal_texture=None if self.normal_texture is None else self.normal_texture.to(device),
        )
