"""The VAE's training: normalised latents, what it minimises, what it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewfold.errors import InputError
from viewfold.training.autoencoder import (
    FIRST_LOGVAR,
    AutoencoderSettings,
    make_autoencoder,
    normalise_latents,
    reconstruction_loss,
    train_autoencoder,
)
from viewfold.training.settings import LoopSettings

SMALL = AutoencoderSettings(channels=(8, 16), latent_channels=3, batch=4)
LOOP = LoopSettings(steps=2, precision="fp32", warmup=0, optimizer="adamw")


def pictures(n: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalising_latents_leaves_decoding_unchanged() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder(AutoencoderSettings(channels=(8, 16), latent_channels=3), image_size=16).eval()
    pictures = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    x = pictures.float() / 127.5 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(x).latent_dist.mean).sample
        spread = vae.encode(x).latent_dist
        noise = (spread.std / spread.mean.std((0, 2, 3), keepdim=True)).clone()
        normalise_latents(vae, pictures)
        after = vae.encode(x).latent_dist
        assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
        assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(3), atol=1e-4)
        assert torch.allclose(after.std, noise, rtol=1e-3)
        assert torch.allclose(vae.decode(after.mean).sample, before, atol=1e-4)


def test_training_the_decoder_alone_leaves_the_latents(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = AutoencoderSettings(channels=(8, 16), latent_channels=3, batch=4, decoder_only=True)
    vae = make_autoencoder(settings, image_size=16).eval()
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    x = pictures.float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mean
        before = vae.decode(latents).sample
    loop = LoopSettings(steps=3, precision="fp32", ema=0.5)
    trained = train_autoencoder(pictures, tmp_path, settings=settings, loop=loop, start=vae)
    with torch.no_grad():
        assert torch.allclose(trained.encode(x).latent_dist.mean, latents, atol=1e-6)
        assert not torch.allclose(trained.decode(latents).sample, before, atol=1e-4)


def test_the_reconstruction_loss_counts_pixels_and_edges() -> None:
    target = torch.zeros(1, 1, 2, 2)
    output = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert reconstruction_loss(output, target, edges=0.0).item() == pytest.approx(0.5 + 0.5)
    assert reconstruction_loss(output, target, edges=2.0).item() == pytest.approx(1.0 + 2.0 * 1.0)


def test_the_seed_alone_decides_new_weights() -> None:
    def first(seed: int) -> Tensor:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever was drawn before
        return make_autoencoder(SMALL, image_size=16, seed=seed).encoder.conv_in.weight

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_a_new_posterior_is_narrow() -> None:
    vae = make_autoencoder(SMALL, image_size=16).eval()
    with torch.no_grad():
        posterior = vae.encode(pictures(4).float() / 127.5 - 1).latent_dist
    assert posterior.logvar.mean().item() == pytest.approx(FIRST_LOGVAR, abs=1.5)


def test_pictures_go_in_between_minus_one_and_one_and_some_are_mirrored(tmp_path: Path) -> None:
    vae = make_autoencoder(SMALL, image_size=16)
    seen: list[Tensor] = []
    vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    ramp = (torch.arange(16) * 17).expand(64, 3, 16, 16).byte().contiguous()
    train_autoencoder(ramp, tmp_path, settings=replace(SMALL, batch=32), loop=replace(LOOP, steps=1), start=vae)
    batch = seen[0]
    assert batch.min().item() == -1 and batch.max().item() == 1
    mirrored = batch[:, 0, 0, 0] > 0
    assert 4 < int(mirrored.sum()) < 28
    assert torch.equal(batch[mirrored], batch[~mirrored][:1].flip(-1).expand_as(batch[mirrored]))


def test_latents_are_drawn_with_the_posteriors_own_deviation(tmp_path: Path) -> None:
    vae = make_autoencoder(SMALL, image_size=16)
    moments, drawn = [], []
    vae.quant_conv.register_forward_hook(lambda module, args, out: moments.append(out.detach()))  # type: ignore[union-attr]
    vae.post_quant_conv.register_forward_pre_hook(lambda module, args: drawn.append(args[0].detach()))  # type: ignore[union-attr]
    train_autoencoder(pictures(64), tmp_path, settings=replace(SMALL, batch=64), loop=replace(LOOP, steps=1), start=vae)
    mean, logvar = moments[0].chunk(2, dim=1)
    noise = (drawn[0] - mean) / (0.5 * logvar).exp()
    assert noise.std().item() == pytest.approx(1.0, abs=0.05) and noise.mean().item() == pytest.approx(0.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kl", [0.0, 10.0])
def test_the_divergence_pulls_latents_together(kl: float, tmp_path: Path) -> None:
    vae = make_autoencoder(SMALL, image_size=16)
    loop = replace(LOOP, steps=30, lr=3e-3, ema=0.0)
    losses: list[dict[str, float]] = []
    train_autoencoder(
        pictures(), tmp_path, settings=replace(SMALL, kl=kl), loop=loop, start=vae,
        progress=lambda status: losses.append(status.scalars),
    )  # fmt: skip
    first, last = losses[0], losses[-1]
    assert (last["kl"] < 0.5 * first["kl"]) == (kl > 0)
    squared_error = 4 * 10 ** (-first["psnr"] / 10)
    assert first["loss"] - kl * first["kl"] > squared_error, "pixels and edges count besides the divergence"


def test_the_result_is_the_averages_of_the_last_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = replace(SMALL, decoder_only=True)
    vae = train_autoencoder(pictures(), tmp_path, settings=settings, loop=replace(LOOP, steps=4, lr=0.01))
    (file,) = (tmp_path / "checkpoint-00000004").glob("*.safetensors")
    stored = load_file(file)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, stored[f"ema.{name}"])
    assert not torch.equal(stored["ema.decoder.conv_in.weight"], stored["network.decoder.conv_in.weight"])


def test_an_autoencoder_is_not_sharded(tmp_path: Path) -> None:
    loop = replace(LOOP, parallel="fsdp")
    with pytest.raises(InputError, match="`parallel` must be ddp"):
        train_autoencoder(pictures(), tmp_path, settings=SMALL, loop=loop)


@pytest.mark.slow
def test_a_stopped_training_goes_on_exactly_whatever_was_drawn_elsewhere(tmp_path: Path) -> None:
    loop = replace(LOOP, steps=4)
    whole = train_autoencoder(pictures(), tmp_path / "whole", settings=SMALL, loop=loop)
    train_autoencoder(pictures(), tmp_path / "parts", settings=SMALL, loop=replace(loop, steps=2))
    torch.rand(17)
    resumed = train_autoencoder(pictures(), tmp_path / "parts", settings=SMALL, loop=loop)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
