"""The multi-view pipeline: text and cameras in, pictures out; it is also the prior of distillation.

FLOW 1, its middle: a text encoder, a network, a scheduler and a VAE, any of which may be another one with the same
calls (`model.backbone`).  It knows nothing of files of views, command lines or 3D.

Latents are normalised here, by `moments`, and nowhere else: x = (VAE latents - shift_factor) * scaling_factor.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import decompose, guide
from viewfold.diffusion.guidance import rescale as rescale_contrast
from viewfold.diffusion.sampler import draw, sampler_for
from viewfold.errors import FitError, InputError
from viewfold.model.backbone import PromptReader
from viewfold.model.condition import Condition
from viewfold.model.defaults import Defaults
from viewfold.model.weights_hash import freeze_hash, frozen_networks
from viewfold.pipeline.anchors import Anchors
from viewfold.pipeline.learner import Learner
from viewfold.pipeline.lora import put_on, take_off
from viewfold.pipeline.moments import denormalise, normalise
from viewfold.pipeline.prompt_cache import PromptCache
from viewfold.weights.components import read_components, read_defaults
from viewfold.weights.verbosity import quiet

MAX_VIEWS, PIXELS_AT_ONCE = 256, 2**16
"""Of a call; of what the VAE decodes at once (16 pictures of 64 px), which changes memory and nothing else."""

Callback = Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor] | None]
"""diffusers' `callback_on_step_end`: (pipeline, step, timestep, {"latents": ...}) -> what to replace, or None."""


class MultiViewPipeline(DiffusionPipeline):
    """A diffusers pipeline over `b` prompts and `v` views each; satisfies `lifting.prior.Learnable`."""

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _callback_tensor_inputs = ["latents"]
    _exclude_from_cpu_offload = ["text_encoder"]
    """From offloading layer by layer: BERT moves its inputs to the device of its weights, which is "meta" then."""

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        guidance: float = Defaults.guidance,
        steps: int = Defaults.steps,
        elevation_deg: float = Defaults.elevation_deg,
        azimuth_deg: float = Defaults.azimuth_deg,
        suffix: str = Defaults.suffix,
        negative: str = Defaults.negative,
        lift_views: int = Defaults.lift_views,
        lift_around: bool = Defaults.lift_around,
        known_light: bool = Defaults.known_light,
        watermark: bool = Defaults.watermark,
    ) -> None:
        super().__init__()
        given = locals()
        self.register_to_config(**{field.name: given[field.name] for field in fields(Defaults)})
        self._prompt_cache = PromptCache()
        self.loras: list[dict[str, Any]] = []
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, folder: str | Path, *, torch_dtype: torch.dtype = torch.float32, **components: Any
    ) -> MultiViewPipeline:
        """Read a folder that `save_pretrained` wrote; parts given by name are used instead of the folder's.

        Networks that are read are frozen: `requires_grad_(True)` on those that are to be trained.

        Raises:
            WeightsError: the folder or a part of it is missing, damaged or does not fit.
        """
        components = {**asdict(read_defaults(folder)), **components}
        read = read_components(folder, dtype=torch_dtype, given=components)
        for part in read.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)  # or distillation computes and keeps gradients of weights that nobody reads
        return cls(**read, **components)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write a folder that `from_pretrained` reads; options as diffusers' (`max_shard_size`, ...)."""
        if away := frozen_networks(self):
            raise InputError(
                f"`{away[0]}` must be there to be saved; it was released, or is kept in 8 bits or layer by layer "
                "elsewhere. Load the model again."
            )
        if self.loras:
            raise InputError("`loras` must be off for the model to be saved. Call `unload_lora_weights` first.")
        with quiet():
            super().save_pretrained(save_directory, **options)

    def load_lora_weights(self, path: str | Path, *, scale: float = 1.0) -> None:
        """Change the networks by a LoRA file, `scale` times; see `lora.put_on` for the errors.  Several add up."""
        put_on(self, path, scale=scale)

    def unload_lora_weights(self) -> None:
        """Bring the networks back to what they were before any LoRA file."""
        take_off(self)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        cameras: Cameras | None,
        *,
        negative_prompt: str | Sequence[str] = "",
        steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance: float | None = None,
        rescale: float = 0.0,
        seeds: int | Sequence[int] = 0,
        latents: Float[Tensor, "b v c h w"] | None = None,
        anchors: Anchors | None = None,
        eta: float = 0.0,
        callback_on_step_end: Callback | None = None,
        output_type: str = "pt",
    ) -> Float[Tensor, "b v _ _ _"]:
        """Sample pictures of each prompt from the cameras.

        Args:
            prompt: one or several; all see the same cameras.
            cameras: 1 to 256; None: no camera conditioning (one view: a plain 2D picture).
            negative_prompt: what to move away from; one for all, or one per prompt.
            steps: noise levels visited, exactly; None takes the model's own number.
            timesteps: visit exactly these instead, falling from noisy to clean.
            guidance: classifier-free guidance scale; None takes the model's own, 1 switches it off and halves the work.
            rescale: 0 to 1; how far the contrast is brought back to that without guidance.
            seeds: one per prompt, or the first of consecutive ones.  Sample i depends on seed i alone.
            latents: start from this noise (standard normal) instead of the seeds'.
            anchors: views that are not drawn but kept, the same for all prompts; the others are drawn around them.
            eta: 0 for deterministic DDIM; up to 1 adds fresh noise, drawn from the seeds as well.
            callback_on_step_end: as in diffusers; may replace the latents.
            output_type: "pt" for sRGB pictures "b v 3 h w" in [0, 1], "latent" for latents.

        Raises:
            InputError: an argument out of range or of the wrong shape.  PromptError: an empty prompt.
            FitError: the network returned something that is not finite.
        """
        if not isinstance(prompt, (str, Sequence)):
            raise InputError(f"`prompt` must be a text or a list of them; got {type(prompt).__name__}.")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        scale = self.defaults.guidance if guidance is None else guidance
        steps = self.defaults.steps if steps is None else steps
        texts = self._check(prompts, negative_prompt, cameras, scale)
        condition = self.condition(texts)
        generators = [torch.Generator().manual_seed(seed) for seed in _per_prompt(seeds, len(prompts))]
        device = self._execution_device
        cameras = None if cameras is None else cameras.to(device)
        sampler = sampler_for(self.scheduler, steps=steps, timesteps=timesteps, eta=eta, device=device)
        x = self._start(latents, generators, n_views=1 if cameras is None else len(cameras)) * sampler.noise_level
        if anchors is not None:
            anchors.check(x.shape)
        for index, timestep in enumerate(sampler.timesteps):
            x = x if anchors is None else anchors.place(x, sampler, index, generators)
            predicted = self._predict(sampler.scale(x, index), timestep, condition, cameras, scale, rescale)
            x = sampler.step(predicted, index, x, generators)
            if callback_on_step_end is not None:
                x = (callback_on_step_end(self, index, timestep, {"latents": x}) or {}).get("latents", x)
            if not bool(x.isfinite().all()):
                raise FitError(
                    f"`unet` must lead to finite latents; got NaN or infinity at step {index} (t = {int(timestep)}). "
                    "Check the weights, lower `guidance`, use float32, or another scheduler (DDIM holds at any level)."
                )
        x = x if anchors is None else anchors.finish(x)
        pictures = x if output_type == "latent" else self.decode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if anchors is not None and output_type != "latent":
            pictures = anchors.show(pictures)
        self.maybe_free_model_hooks()
        return pictures

    def _check(
        self, prompts: list[str], negative: str | Sequence[str], cameras: Cameras | None, guidance: float
    ) -> list[str]:
        """Return the texts of a call, with guidance twice as many, [without; with] the prompt; or say what is wrong."""
        if not prompts:
            raise InputError("`prompt` must be one or more texts; got none.")
        for prompt in prompts:
            self.text.check(prompt)
        if not (cameras is None or isinstance(cameras, Cameras)):
            raise InputError(
                f"`cameras` must be Cameras (Cameras.orbit(4), say) or None; got {type(cameras).__name__}."
            )
        if not 0 <= guidance < float("inf"):
            raise InputError(f"`guidance` must be a finite number of at least 0; got {guidance}.")
        if cameras is not None and len(cameras) > MAX_VIEWS:
            raise InputError(f"`cameras` must be 1 to {MAX_VIEWS}; got {len(cameras)}. Ask for fewer views at a time.")
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(prompts):
            raise InputError(f"`negative_prompt` must be one or {len(prompts)} texts; got {len(negatives)}.")
        return prompts if guidance == 1 else negatives + prompts

    def _start(
        self, latents: Tensor | None, generators: Sequence[torch.Generator], *, n_views: int
    ) -> Float[Tensor, "b v c h w"]:
        size = self.unet.config["sample_size"]
        shape = (n_views, self.unet.config["in_channels"], size, size)
        if latents is None:
            latents = draw(shape, generators)
        elif latents.shape[0] != len(generators) or latents.shape[2] != shape[1] or latents.shape[1] != n_views:
            raise InputError(f"`latents` must be {(len(generators), *shape)}; got {tuple(latents.shape)}.")
        return latents.to(self._execution_device, torch.float32)

    def _predict(
        self,
        x: Tensor,
        timestep: Any,
        condition: Condition,
        cameras: Cameras | None,
        guidance: float,
        strength: float,
    ) -> Float[Tensor, "b v c h w"]:
        """Call the network once, on [without; with] the prompt if guided; work outside it is in float32."""
        twice = x if guidance == 1 else torch.cat([x, x])
        t = torch.as_tensor(timestep, device=x.device).reshape(1).expand(len(twice))
        predicted = self.unet(twice.to(self.unet.dtype), t, condition, cameras).float()
        if guidance == 1:
            return predicted
        unconditional, conditional = predicted.chunk(2)
        return rescale_contrast(guide(conditional, unconditional, scale=guidance), conditional, strength=strength)

    # What distillation asks (lifting.prior.Prior) --------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """What this model does where a call says nothing; `generate` also takes its cameras and suffix from here."""
        return Defaults(**{field.name: self.config[field.name] for field in fields(Defaults)})

    @property
    def device(self) -> torch.device:
        """Where the networks compute, though offloaded ones lie elsewhere until they are called."""
        for part in self.components.values():
            for module in part.modules() if hasattr(part, "_hf_hook") else ():
                place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
                if place is not None:
                    return torch.device(place)
        return super().device

    @property
    def image_size(self) -> int:
        """Edge of the square pictures that the model was trained on, in pixels."""
        shrink = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        return int(self.unet.config["sample_size"]) * shrink

    @property
    def alphas_cumprod(self) -> Float[Tensor, "steps"]:
        """The noise schedule, from nearly 1 to nearly 0."""
        return self.scheduler.alphas_cumprod

    @property
    def text(self) -> PromptReader:
        """The network's reader of prompts, which also knows which words it does not know."""
        return self.unet.reader(self.tokenizer, self._prompt_cache.network(self.text_encoder))

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Condition:
        """Return the conditioning of each prompt, a row each (each different one is read once); "" is no text.

        The network alone reads it.
        """
        return self._prompt_cache.read(self.text, prompts).to(self._execution_device, self.unet.dtype)

    def release_text(self, prompts: Sequence[str]) -> None:
        """Read the prompts, negative ones too, and drop the text network: any other is a `PromptError` from then on."""
        self._prompt_cache.release(self.text, [*prompts, ""])
        if self.text_encoder is None:
            return
        freeze_hash(self, "text_encoder")
        self.text_encoder = None
        self.maybe_free_model_hooks()  # offloading keeps the networks in a chain; make it again without this one
        gc.collect()

    def encode(
        self, images: Float[Tensor, "b 3 h w"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c i j"]:
        """Return normalised latents of sRGB pictures in [0, 1], differentiably.

        With a generator they are a sample of the posterior, as in MVDream's released code; without, its mean, which
        differs by less than the noise that distillation adds and makes a run depend on its seed alone.
        """
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return normalise(latents.float(), self.vae)

    def decode(self, latents: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 3 h w"]:
        """Return sRGB pictures in [0, 1] of normalised latents.

        Raises:
            FitError: they are not finite.
        """
        latents = denormalise(latents.float(), self.vae).to(self.vae.dtype)
        at_once = max(1, PIXELS_AT_ONCE // self.image_size**2)
        pictures = [self.vae.decode(some, return_dict=False)[0].float() for some in latents.split(at_once)]
        rgb = torch.cat(pictures) / 2 + 0.5
        if not bool(rgb.isfinite().all()):
            raise FitError(
                "`vae` must decode to finite pictures; got NaN or infinity. Check its weights, and use float32 or "
                "bfloat16 if float16 overflows."
            )
        return rgb.clamp(0, 1)

    def predict_noise(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        condition: Condition,
        cameras: Cameras | None,
        *,
        network: Any = None,
    ) -> Float[Tensor, "b v c h w"]:
        """Return the noise in x_t, whatever the network (the model's, or another such) itself predicts."""
        predicted = (network or self.unet)(x.to(self.unet.dtype), t, condition, cameras).to(x)
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        return decompose(predicted, x, alpha_bar, prediction=self.scheduler.config["prediction_type"]).noise

    def learner(self, *, rank: int, generator: torch.Generator | None = None) -> Learner:
        """Return a copy of the network that can be trained by low-rank layers; see `learner.Learner` for the errors."""
        return Learner(self, rank=rank, generator=generator)


def _per_prompt(seeds: int | Sequence[int], n_prompts: int) -> list[int]:
    seeds = [seeds + i for i in range(n_prompts)] if isinstance(seeds, int) else list(seeds)
    if len(seeds) != n_prompts:
        raise InputError(f"`seeds` must be one, or one per prompt ({n_prompts}); got {len(seeds)}.")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise InputError(f"`seeds` must lie between 0 and 2^63 - 1; got {seed}.")
    return seeds
