"""The VAE of a small model: pictures -> 8x smaller latents with unit variance.

A stock diffusers AutoencoderKL.  After training, the statistics of the latents are folded into its two 1x1
convolutions, so that latents come out normalised per channel and `scaling_factor` is 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from viewfold.errors import InputError
from viewfold.training.loop import fit
from viewfold.training.monitor import Progress
from viewfold.training.settings import LoopSettings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


FIRST_LOGVAR = -5.0
"""Log variance of the posterior at the start.  From diffusers' 0, half of the channels drowned in their own noise and
never carried anything: 22 dB after 1,600 steps."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """The shape of the VAE and what it minimises."""

    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Width of each level; every level but the last halves the picture."""
    layers: int = 1
    latent_channels: int = 8
    batch: int = 48
    """Pictures a step and process."""
    kl: float = 1e-6
    """Weight of the divergence from a unit Gaussian, against a mean absolute error a pixel."""
    edges: float = 0.5
    """Weight of the error of the picture's differences between neighbours: sharp outlines."""
    decoder_only: bool = False
    """Leave the encoder as it is: latents, and networks trained on them, stay valid."""


def make_autoencoder(settings: AutoencoderSettings, *, image_size: int, seed: int = 0) -> AutoencoderKL:
    """Build an AutoencoderKL with fresh weights, which `seed` alone decides."""
    from diffusers import AutoencoderKL

    levels = len(settings.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(  # diffusers declares tuples of one where it takes as many as there are levels
            down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
            block_out_channels=settings.channels,  # pyright: ignore[reportArgumentType]
            layers_per_block=settings.layers,
            latent_channels=settings.latent_channels,
            norm_num_groups=8,
            sample_size=image_size,
            scaling_factor=1.0,
        )
    assert vae.quant_conv is not None and vae.quant_conv.bias is not None
    with torch.no_grad():
        vae.quant_conv.bias[settings.latent_channels :] += FIRST_LOGVAR
    return vae


def reconstruction_loss(
    output: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"], *, edges: float
) -> Float[Tensor, ""]:
    """Return the mean absolute plus squared error, and the absolute one of differences between neighbours.

    e = output - target,   mean |e| + mean e^2 + edges (mean |e_{x+1} - e_x| + mean |e_{y+1} - e_y|)
    """
    error = output.float() - target
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + error.square().mean() + edges * (across.abs().mean() + down.abs().mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureBatch:
    """Pictures of a step."""

    pictures: Float[Tensor, "b 3 h w"]
    """In [-1, 1]."""

    def to(self, device: torch.device) -> PictureBatch:
        """Return the batch there."""
        return PictureBatch(pictures=self.pictures.to(device))


def train_autoencoder(
    pictures: UInt8[Tensor, "p 3 h w"],
    out: str | Path,
    *,
    settings: AutoencoderSettings,
    loop: LoopSettings,
    start: AutoencoderKL | None = None,
    override: bool = False,
    progress: Progress | None = None,
) -> AutoencoderKL:
    """Train on pictures held in memory (12 kB each at 64 px) and return the averaged, normalised VAE.

    Args:
        start: a VAE to go on from, on the device that computes; its own shape counts, not that of `settings`.
        override: see `fit`.
        progress: see `fit`.

    Raises:
        InputError: FSDP, which an autoencoder (called by its two halves) does not do.  As `fit` besides.
    """
    if loop.parallel == "fsdp":
        raise InputError("`parallel` must be ddp for an autoencoder; got fsdp.")
    vae = start or make_autoencoder(settings, image_size=pictures.shape[-1], seed=loop.seed)
    vae = nn.utils.convert_conv2d_weight_memory_format(vae, torch.channels_last).train()
    vae.requires_grad_(True)
    assert vae.quant_conv is not None
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not settings.decoder_only)

    def draw(step: int, generator: torch.Generator) -> PictureBatch:
        index = torch.randint(len(pictures), (settings.batch,), generator=generator)
        target = pictures[index].float() / 127.5 - 1
        flip = torch.rand(settings.batch, 1, 1, 1, generator=generator) < 0.5
        return PictureBatch(pictures=torch.where(flip, target.flip(-1), target))

    def loss(batch: PictureBatch, generator: torch.Generator) -> dict[str, Tensor]:
        target = batch.pictures.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(target, return_dict=False)[0]
        noise = torch.randn(posterior.mean.shape, generator=generator).to(target.device)
        latents = posterior.mean + posterior.std * noise
        output = vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType] - it asks for a FloatTensor
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        # KL(N(mean, var) || N(0, 1)) = sum (mean^2 + var - 1 - log var) / 2  (Kingma and Welling 2014, appendix B)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        rebuilt = reconstruction_loss(output, target, edges=settings.edges)
        mse = (output.detach().float() - target).square().mean()
        return {"loss": rebuilt + settings.kl * divergence, "psnr": -10 * torch.log10(mse / 4), "kl": divergence}

    record = {"autoencoder": asdict(settings), "pictures": len(pictures), "size": pictures.shape[-1]}
    fit(
        vae, draw, loss, out, settings=loop, samples=settings.batch, record=record, override=override,
        progress=progress,
    )  # fmt: skip
    vae = vae.eval()
    if not settings.decoder_only:
        normalise_latents(vae, pictures[:: max(1, len(pictures) // 2048)])
    return vae.requires_grad_(False)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, pictures: UInt8[Tensor, "p 3 h w"]) -> None:
    """Fold mean and deviation of each latent channel into `quant_conv` and `post_quant_conv`, in place.

    Afterwards the posterior means have mean 0 and deviation 1 per channel; decoding is unchanged:

        mean' = (mean - shift) / scale,   logvar' = logvar - 2 log(scale),   decode'(z) = decode(scale z + shift)
    """
    scaled = (part.to(vae.device).float() / 127.5 - 1 for part in pictures.split(64))
    means = torch.cat([vae.encode(part, return_dict=False)[0].mean for part in scaled])
    shift = means.mean(dim=(0, 2, 3))
    scale = means.std(dim=(0, 2, 3))
    n_channels = len(shift)
    into, outof = vae.quant_conv, vae.post_quant_conv
    assert into is not None and outof is not None and into.bias is not None and outof.bias is not None
    into.weight[:n_channels] /= scale[:, None, None, None]
    into.bias[:n_channels] = (into.bias[:n_channels] - shift) / scale
    into.bias[n_channels:] -= 2 * scale.log()
    outof.bias += (outof.weight[:, :, 0, 0] * shift).sum(dim=1)
    outof.weight *= scale[None, :, None, None]
