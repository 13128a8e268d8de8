"""The light that pictures are drawn in: a soft sky and one lamp, and what a smooth surface mirrors of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError

MATT, SMOOTH = 0.7, 0.4
"""A roughness of MATT or more is drawn without a mirror image, of SMOOTH or less with all of it."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """A soft sky, and one lamp that stays where it is in the world: colour is albedo x (0.55 to 1.06), clamped.

    The defaults lie close to 1, so that the colours of the picture are still those of the object.
    """

    sky: float = 0.80
    """Ambient strength on what looks up."""

    ground: float = 0.55
    """Ambient strength on what looks down."""

    key: float = 0.30
    """Strength of the lamp on what faces it."""

    direction: tuple[float, float, float] = (0.4, -0.7, 0.6)
    """Towards the lamp, in the world: front, right, above.  Any length."""

    def shade(self, normal: Float[Tensor, "p 3"]) -> Float[Tensor, "p 1"]:
        """Return the factor on the albedo for unit world normals n, l being the direction to the lamp.

        factor = (sky + ground) / 2 + (sky - ground) / 2 n_z + key max(0, n . l)          hemisphere and Lambert
        """
        half = (self.sky - self.ground) / 2
        x, y, z = (self.key * d for d in self._lamp())
        lamp = (normal[:, :1] * x).add_(normal[:, 1:2], alpha=y).add_(normal[:, 2:], alpha=z).clamp_(min=0)
        return lamp.add_(normal[:, 2:], alpha=half).add_(self.ground + half)

    def polish(
        self,
        albedo: Float[Tensor, "p 3"],
        normal: Float[Tensor, "p 3"],
        to_eye: Float[Tensor, "p 3"],
        roughness: Float[Tensor, "p 1"],
        metallic: Float[Tensor, "p 1"],
    ) -> Float[Tensor, "p 3"]:
        """Return the lit colour of surfaces that mirror: an affine function of the albedo, matt from `MATT` on.

        With n the normal, v the direction to the eye, l to the lamp, r = 2 (n . v) n - v the mirrored one, m metallic:

            gloss   = clamp((MATT - roughness) / (MATT - SMOOTH), 0, 1)
            F       = F0 + (1 - F0) (1 - n . v)^5,  F0 = 0.04 (1 - m) + albedo m       Fresnel (Schlick 1994)
            world   = below + (above - below) sigmoid(7 (r_z + 0.2))                    ground, soft horizon, sky
            lobe    = 2.6 key exp(2 / max(roughness, 0.1)^2 (r . l - 1))                the lamp, in place of GGX's
            colour  = albedo shade (1 - 0.75 gloss m) + gloss (0.75 F world + lobe (1 + (albedo - 1) m / 2))

        A metal (m = 1) mirrors in its own colour.

        Args:
            normal, to_eye: unit vectors in the world; `normal` faces the eye.
        """
        gloss = ((MATT - roughness) / (MATT - SMOOTH)).clamp(0, 1)
        facing = (normal * to_eye).sum(1, keepdim=True).clamp(0, 1)
        mirrored = 2 * facing * normal - to_eye
        upward = torch.sigmoid(_HORIZON * (mirrored[:, 2:] + 0.2))
        below, above = _BELOW * self.ground, _ABOVE * self.sky
        world = below + (above - below) * upward
        head_on = _DIELECTRIC + (albedo - _DIELECTRIC) * metallic
        grazing = 1 - facing
        fifth = grazing.square().square() * grazing  # ** 5 takes ten times as long
        fresnel = head_on + (1 - head_on) * fifth
        across = mirrored @ torch.tensor([self._lamp()], device=normal.device).T
        lobe = _LAMP * self.key * torch.exp(2 / roughness.clamp(min=0.1) ** 2 * (across - 1))
        tint = 1 + (0.5 * albedo - 0.5) * metallic
        shine = _MIRROR * fresnel * world + lobe * tint
        return albedo * self.shade(normal) * (1 - _MIRROR * gloss * metallic) + gloss * shine

    def _lamp(self) -> tuple[float, float, float]:
        """Return the unit vector towards the lamp."""
        length = math.hypot(*self.direction)
        if not length > 0:
            raise InputError(f"`direction` must not be zero; got {self.direction}.")
        x, y, z = (d / length for d in self.direction)
        return x, y, z


_DIELECTRIC = 0.04
"""What plastic, varnish and glaze mirror of light that falls on them from straight above."""

_HORIZON, _BELOW, _ABOVE, _LAMP, _MIRROR = 7.0, 0.55, 1.6, 2.6, 0.75
"""Sharpness of the mirrored horizon; mirrored ground, sky and lamp as multiples of their own; share of the mirror.

Chosen by eye, so that a metal at 64 pixels shows its own colour and differs from a matt thing.
"""
