"""What a plausible field looks like, one formula each; all are means, so that weights do not depend on sizes.

Knows tensors only: a density grid, or what a renderer returned.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def total_variation(grid: Float[Tensor, "b c z y x"]) -> Float[Tensor, ""]:
    """Return the mean absolute difference of neighbouring cells along the three axes.

    Source: Rudin, Osher and Fatemi 1992, anisotropic; on radiance grids as in Plenoxels, equation 3.
    """
    return sum((grid.diff(dim=axis).abs().mean() for axis in (-3, -2, -1)), grid.new_zeros(())) / 3


def binary_entropy(alpha: Float[Tensor, "v 1 h w"]) -> Float[Tensor, ""]:
    """Return the mean entropy of coverage, in nats: zero where each ray either hits or misses, so it clears fog.

    Source: the opaque loss of threestudio; Latent-NeRF's sparsity loss.
    """
    alpha = alpha.clamp(1e-3, 1 - 1e-3)
    return -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()


def sparsity(alpha: Float[Tensor, "v 1 h w"]) -> Float[Tensor, ""]:
    """Return the mean of sqrt(alpha^2 + 0.01): a preference for empty space.

    Source: DreamFusion's opacity regulariser, appendix A.2.
    """
    return (alpha.square() + 0.01).sqrt().mean()


def orientation(normal: Float[Tensor, "v 3 h w"], rays: Float[Tensor, "v h w 3"]) -> Float[Tensor, ""]:
    """Return the mean squared cosine of normals that point away from the camera along the ray.

    `normal` is premultiplied by coverage and is not flipped towards the camera; `rays` are unit directions away from
    the camera.  Source: Ref-NeRF, equation 11.  Opt in: it helps analytic normals only.
    """
    cosine = torch.einsum("vchw,vhwc->vhw", normal, rays)
    return cosine.clamp_min(0).square().mean()
