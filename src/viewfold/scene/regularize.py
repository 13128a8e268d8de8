"""Regularisers of fields, meshes and renders, one formula each; all are means: weights do not depend on sizes.

Knows tensors only: a density grid, what stands at a mesh's vertices, or what a renderer returned.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.scene.rendering import RaySamples


def total_variation(grid: Float[Tensor, "b c z y x"]) -> Float[Tensor, ""]:
    """Return the mean absolute difference of neighbouring cells, 1/3 sum over axes of mean |g_{i+1} - g_i|.

    Source: Rudin, Osher and Fatemi 1992, anisotropic; on radiance grids as in Plenoxels, equation 3.
    """
    return sum((grid.diff(dim=axis).abs().mean() for axis in (-3, -2, -1)), grid.new_zeros(())) / 3


def unevenness(values: Float[Tensor, "k d"], edges: Int[Tensor, "e 2"]) -> Float[Tensor, ""]:
    """Return how far vertices are from the mean of their neighbours, mean over i of |x_i - mean_{j ~ i} x_j|^2.

    Of positions, it is least where a mesh is flat and its vertices are spread evenly; of colours, where they are plain.
    `edges` holds each edge once; every vertex has one.  Source: the umbrella operator, Kobbelt et al. 1998.
    """
    start, end = edges.unbind(1)
    total = torch.zeros_like(values).index_add(0, start, values[end]).index_add(0, end, values[start])
    degree = torch.bincount(edges.flatten(), minlength=len(values))
    return (values - total / degree[:, None]).square().sum(dim=-1).mean()


def binary_entropy(alpha: Float[Tensor, "v 1 h w"]) -> Float[Tensor, ""]:
    """Return the mean entropy of coverage, in nats: zero where each ray either hits or misses, so it clears fog.

        mean of -alpha log(alpha) - (1 - alpha) log(1 - alpha),  alpha clamped to [0.001, 0.999]

    Source: the opaque loss of threestudio; Latent-NeRF's sparsity loss.
    """
    alpha = alpha.clamp(1e-3, 1 - 1e-3)
    return -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()


def sparsity(alpha: Float[Tensor, "v 1 h w"]) -> Float[Tensor, ""]:
    """Return the mean of sqrt(alpha^2 + 0.01): a preference for empty space.

    Source: DreamFusion's opacity regulariser, appendix A.2.
    """
    return (alpha.square() + 0.01).sqrt().mean()


def orientation(samples: RaySamples) -> Float[Tensor, ""]:
    """Return the mean over rays of what they see of surfaces that turn their back: sum_i w_i max(0, n_i . d)^2.

    Summed per sample, before compositing: a normal that looks away is not excused by one behind it that does not.
    Weights are held constant, so that only normals turn.  `render_volume(..., normals=True)` returns the samples.
    Source: Ref-NeRF, equation 11; constant weights and the mean over rays that hit something as in threestudio.  Opt
    in: it helps analytic normals only.
    """
    away = (samples.normal * samples.direction).sum(dim=-1).clamp_min(0)
    return (samples.weight.detach() * away.square()).sum() / max(samples.n_rays, 1)


def z_variance(samples: RaySamples, alpha: Float[Tensor, "v 1 h w"]) -> Float[Tensor, ""]:
    """Return how thick surfaces look: the mean over covered pixels of the variance of distance along their rays.

        m = sum_i w_i z_i / sum_i w_i,   variance = sum_i w_i (z_i - m)^2 / sum_i w_i,   over pixels with alpha > 0.5

    Source: HiFA, section 3.3; MVDream-threestudio leaves the weights as they are, which is the same at an alpha of 1.
    """
    total = alpha.new_zeros(alpha.numel()).index_add(0, samples.pixel, samples.weight).clamp_min(1e-6)
    share = samples.weight / total[samples.pixel]
    mean = torch.zeros_like(total).index_add(0, samples.pixel, share * samples.distance)
    off = share * (samples.distance - mean[samples.pixel]).square()
    covered = (alpha.detach().flatten() > 0.5).to(alpha)
    return (torch.zeros_like(total).index_add(0, samples.pixel, off) * covered).sum() / covered.sum().clamp_min(1)
