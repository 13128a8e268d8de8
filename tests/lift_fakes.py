"""Objects whose shape is known, for the lift: as pictures to fit, and as what a perfect prior believes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.views import Views

BETAS = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64).square()
RADIUS = 0.35


def ball(cameras: Cameras, *, size: int, ground: float = 0.5, samples: int = 3) -> tuple[Tensor, Tensor]:
    """Return pictures and coverage of a red ball with a blue top, drawn exactly and averaged over samples."""
    origins, directions = cameras.rays(size * samples)
    along = -(origins * directions).sum(-1)
    gap = RADIUS**2 - (origins + along[..., None] * directions).square().sum(-1)
    hit = (gap > 0).float()
    where = origins + (along - gap.clamp_min(0).sqrt())[..., None] * directions
    color = torch.where(where[..., 2:] > 0.15, torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.9, 0.1, 0.1]))
    both = torch.cat([color * hit[..., None], hit[..., None]], dim=-1).permute(0, 3, 1, 2)
    both = torch.nn.functional.avg_pool2d(both, samples)
    return both[:, :3] + (1 - both[:, 3:]) * ground, both[:, 3:]


def overlap(a: Tensor, b: Tensor) -> float:
    """Return the pixels that both cover by half, as a share of those that either does."""
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def ball_views(*, size: int = 32, n_views: int = 4) -> Views:
    """Return pictures of the ball from the usual cameras, without alpha."""
    cameras = Cameras.orbit(n_views, elevation_deg=15)
    return Views(rgb=ball(cameras, size=size)[0], cameras=cameras, prompt="a red ball")


class PerfectPrior:
    """Knows one object: sees it in every noisy picture, as drawn by `draw` from the camera that it is told.

    Its latents are the pictures themselves, shrunk to 16 pixels and scaled to [-1, 1].
    """

    alphas_cumprod = (1 - BETAS).cumprod(0).float()
    latent_size = 16
    device = torch.device("cpu")

    def __init__(self, draw: Callable[[Cameras, int], Tensor], *, image_size: int = 32, nan_after: int = -1) -> None:
        self.draw, self.image_size, self.nan_after = draw, image_size, nan_after
        self.calls = 0

    def condition(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts))

    def encode(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images * 2 - 1, self.latent_size)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor, cameras: Cameras | None) -> Tensor:
        assert cameras is not None and len(cameras) == x.shape[1] and len(condition) == len(x)
        self.calls += 1
        pictures = self.draw(cameras, self.image_size)
        level = self.alphas_cumprod[t][:, None, None, None, None]
        noise = (x - level.sqrt() * self.encode(pictures)[None]) / (1 - level).sqrt()
        return noise * float("nan") if 0 <= self.nan_after < self.calls else noise


class PriorOn(PerfectPrior):
    """The perfect prior on any device, which accepts nothing from another, and one with a mistake if it is told."""

    def __init__(self, device: torch.device | str = "cpu", *, broken: str = "") -> None:
        super().__init__(lambda cameras, size: ball(cameras.to("cpu"), size=size)[0].to(device))
        self.device, self.broken = torch.device(device), broken
        self.alphas_cumprod = self.alphas_cumprod.to(device)

    def condition(self, prompts: Sequence[str]) -> Tensor:
        return super().condition(prompts).to(self.device)

    def encode(self, images: Tensor) -> Tensor:
        assert images.device == self.device
        return super().encode(images) * (float("nan") if self.broken == "encode" else 1)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor, cameras: Cameras | None) -> Tensor:
        assert cameras is not None
        assert all(given.device == self.device for given in (x, t, condition, cameras.world_from_camera))
        return super().predict_noise(x, t, condition, cameras) * (float("nan") if self.broken == "noise" else 1)
