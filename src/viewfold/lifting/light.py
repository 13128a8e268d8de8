"""Light apart from paint: what light the views were taken in, and the colour of a surface without it.

A mesh whose texture holds the views' light is lit a second time by whoever shows it.  So the light is divided out: a
known one by its formula; one that is only known to be the same in all views as far as the colours tell; and where they
do not, it stays in the texture, and the material says that it is not to be lit (KHR_materials_unlit).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.finish import Finish
from viewfold.scene.harmonic import AnyLight, HarmonicLight, harmonics
from viewfold.scene.light import Light

DARK = 0.1
"""Luminances are compared as log(DARK / 2 + y), and count as y / (y + DARK): what is nearly black shows no shading."""

MOST_POINTS = 1500
"""Points that a light is estimated from, spread evenly over those given; each is compared with all others."""

HUE_WIDTH = 0.05
"""Points whose chromaticities differ by much more than this have different paints."""

WIDEST, NARROWEST, ROUNDS = 0.5, 0.1, 40
"""Logarithms of luminance within which points of one hue are one paint, at first and at last; rounds from one to the
other."""

STIFFNESS = 0.02
"""Pull of the harmonics of order 1 and 2 towards a light from everywhere, as a share of the points."""

SHADES = 1.10
"""A light whose brightest normal is less than this times as bright as its darkest is none: the views are not lit."""

LEAST_LIGHT = 0.05
"""Nothing is divided by less."""

GLARE = 0.05
"""Where this much of what is seen is mirrored, a view counts half: normals are not known so well that a highlight could
be taken off."""

LIT = (0.05, 0.95)
"""Quantiles of the points' shading between which that is measured."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The views share one light that stays where it is in the world: find it, if the colours tell."""

    least_explained: float = 0.5
    """Share of the variance of luminance among points of one hue that the light must explain."""

    least_apart: float = 0.3
    """Share of the variance of the normals' harmonics that must lie within paints, not between them."""

    kind: Literal["estimate"] = field(default="estimate", init=False)
    """Names the choice in records."""

    def __post_init__(self) -> None:
        for name in ("least_explained", "least_apart"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` must lie between 0 and 1; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class PaintedIn:
    """Leave the light in the colours, and mark the material as unlit."""

    kind: Literal["painted in"] = field(default="painted in", init=False)
    """Names the choice in records."""


Lighting = Light | Estimate | PaintedIn
"""What is known of the light in the views: all of it, that it is one, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The light that is divided out of the views."""

    light: AnyLight | None
    """None: it stays in the colours."""

    how: Literal["known", "estimated", "painted in (unlit)"]
    """What a report says."""

    def albedo(
        self,
        color: Float[Tensor, "*v p 3"],
        normals: Float[Tensor, "p 3"],
        to_eye: Float[Tensor, "*v p 3"] | None = None,
        finish: Finish | None = None,
    ) -> tuple[Float[Tensor, "*v p 3"], Float[Tensor, "*v p"]]:
        """Return colours without the light, 0 or more, and how far to believe them, 0 to 1.

            albedo = (colour - lit(0)) / (lit(1) - lit(0)),   trust = 1 / (1 + (mean lit(0) / GLARE)^2)

        with lit(a) what a surface of albedo a looks like, which is affine in a; for a matt one, colour / shade(normal)
        and 1.  Above 1 where the views are brighter than the light allows.

        Args:
            to_eye: unit vectors to the cameras that saw the colours, for a finish that mirrors.
            finish: None, or without `to_eye`: matt.
        """
        if self.light is None:
            return color, torch.ones_like(color[..., 0])
        flat = normals.expand_as(color).reshape(-1, 3)
        if to_eye is None or finish is None:
            bare = color / self.light.shade(flat.clone()).reshape(*color.shape[:-1], 1)
            return bare, torch.ones_like(color[..., 0])
        numbers = [torch.full_like(flat[:, :1], value) for value in (finish.roughness, finish.metallic)]
        black, white = (
            self.light.polish(torch.full_like(flat, value), flat, to_eye.reshape(-1, 3), *numbers)
            for value in (0.0, 1.0)
        )
        bare = ((color.reshape(-1, 3) - black) / (white - black).clamp_min(LEAST_LIGHT)).clamp_min(0)
        trust = 1 / (1 + (black.mean(-1) / GLARE).square())
        return bare.reshape(color.shape), trust.reshape(color.shape[:-1])


def find_light(
    lighting: Lighting, color: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"], weight: Float[Tensor, "p"]
) -> Found:
    """Return the light to divide out.

    Args:
        color: sRGB of points of the surface, as the views show them.
        normals: unit.
        weight: how well each point is seen; 0 for those that nobody sees.
    """
    match lighting:
        case Light():
            return Found(light=lighting, how="known")
        case Estimate():
            light = estimate_light(color, normals, weight, settings=lighting)
            return Found(light=light, how="painted in (unlit)" if light is None else "estimated")
        case PaintedIn():
            return Found(light=None, how="painted in (unlit)")


def estimate_light(
    color: Float[Tensor, "p 3"],
    normals: Float[Tensor, "p 3"],
    weight: Float[Tensor, "p"],
    *,
    settings: Estimate | None = None,
) -> HarmonicLight | None:
    """Return the light under which the surface has the fewest colours, or None where the colours do not tell.

    With y the luminance and h the chromaticity of a point, n its normal and H the harmonics,

        log y_i = log a_i + log s(n_i),   log s(n) = H(n) . l

    with an albedo a that is the same wherever it is nearly the same: a_i is the mean of y_j / s(n_j) over points j in a
    kernel about i in hue and luminance (mean shift, Comaniciu and Meer 2002).  Least squares for l, and means for a, in
    turn, with a kernel that narrows in luminance: points of one hue are one paint at first, light and dark paints of
    one hue come apart as the light becomes known.  At last s itself, not its logarithm, is fitted to y / a.

    How bright the paint is and how bright the light is cannot be told apart: the light is scaled so that the points are
    as bright on average in it as in `Light()`.

    It is told where the light explains the luminance among points of one hue, where normals vary within paints, and
    where it varies at all (`Estimate`, SHADES).
    """
    settings = settings or Estimate()
    chosen = _spread_evenly((weight > 0).nonzero()[:, 0])
    if len(chosen) < 30:
        return None
    basis = harmonics(normals[chosen])[:, 1:]
    luminance = color[chosen].mean(-1)
    y, hue = (luminance + DARK / 2).log(), color[chosen] / (color[chosen].sum(-1, keepdim=True) + DARK)
    sure = luminance / (luminance + DARK)
    alike = -torch.cdist(hue, hue).square() / (2 * HUE_WIDTH**2)
    l = basis.new_zeros(basis.shape[1])  # noqa: E741
    for step in range(ROUNDS):
        width = WIDEST * (NARROWEST / WIDEST) ** (step / (ROUNDS - 1))
        kernel = _kernel(alike, y - basis @ l, sure, width)
        within, left = basis - kernel @ basis, (y - basis @ l) - kernel @ (y - basis @ l)
        normal = (within * sure[:, None]).T @ within
        normal += STIFFNESS * len(basis) / 10 * torch.eye(len(normal), device=basis.device)
        l = l + torch.linalg.solve(normal, (within * sure[:, None]).T @ left)  # noqa: E741
    kernel = _kernel(alike, y - basis @ l, sure, NARROWEST)
    apart = float((basis - kernel @ basis).square().sum() / (basis - basis.mean(0)).square().sum().clamp_min(1e-9))
    one_hue = _kernel(alike, y - basis @ l, sure, WIDEST)
    spread = [float((sure * (v - one_hue @ v).square()).sum()) for v in (y, y - basis @ l)]
    explained = 1 - spread[1] / max(spread[0], 1e-9)
    albedo = (kernel @ (y - basis @ l)).exp()
    light = _fitted(normals[chosen], luminance / (albedo - DARK / 2).clamp_min(DARK / 2), sure)
    shading = light.shade(normals[chosen])[:, 0]
    dark, bright = (float(shading.quantile(q)) for q in LIT)
    if explained < settings.least_explained or apart < settings.least_apart or bright < SHADES * dark:
        return None
    scale = float(Light().shade(normals[chosen].clone()).mean() / shading.mean())
    return HarmonicLight(coefficients=tuple(scale * c for c in light.coefficients))


def _spread_evenly(index: Tensor) -> Tensor:
    step = max(1, len(index) // MOST_POINTS)
    return index[::step][:MOST_POINTS]


def _kernel(
    alike: Float[Tensor, "p p"], y: Float[Tensor, "p"], sure: Float[Tensor, "p"], width: float
) -> Float[Tensor, "p p"]:
    """Return rows of weights that sum to 1: of points of the same hue and about the same luminance."""
    apart = (y[:, None] - y).square() / (2 * width**2)
    return torch.softmax(alike - apart + sure.clamp_min(1e-6).log(), dim=1)


def _fitted(normals: Float[Tensor, "p 3"], shading: Float[Tensor, "p"], sure: Float[Tensor, "p"]) -> HarmonicLight:
    """Return the light that is nearest to the shading at these normals."""
    basis = harmonics(normals)
    stiff = STIFFNESS * len(basis) / 10 * torch.eye(9, device=basis.device)
    stiff[0, 0] = 0
    solved = torch.linalg.solve((basis * sure[:, None]).T @ basis + stiff, (basis * sure[:, None]).T @ shading)
    return HarmonicLight(coefficients=tuple(solved.tolist()))
