"""Samplers: from noise to a clean sample, one noise level after the other.

Below the pipeline; it knows tensors, time steps and diffusers' schedulers, nothing of prompts or cameras.  A sampler is
made for each run and never shared, so two runs at once cannot disturb each other.

DDIM is our own.  diffusers' `DDIMScheduler` takes no explicit list, and where the steps asked for do not
divide the 1,000 trained ones it steps to a level that is not the next one in its list; ours visits exactly its list.
Every other scheduler is diffusers' own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from viewfold.diffusion.guidance import compose, decompose
from viewfold.errors import InputError

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Short names of schedulers that are tested here; any other one of diffusers' may be set on the pipeline."""


@runtime_checkable
class Sampler(Protocol):
    """One run from noise to a clean sample."""

    timesteps: Any
    """A sequence: what the network is told at each step, noisiest first."""

    noise_level: float
    """Standard deviation of the noise that the run starts from."""

    def scale(self, x: Float[Tensor, "b *shape"], index: int) -> Float[Tensor, "b *shape"]:
        """Return what the network sees of `x` at this step."""
        ...

    def step(
        self,
        predicted: Float[Tensor, "b *shape"],
        index: int,
        x: Float[Tensor, "b *shape"],
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "b *shape"]:
        """Return `x` at the next level; fresh noise for sample i comes from generator i."""
        ...

    def add_noise(
        self, clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], index: int
    ) -> Float[Tensor, "b *shape"]:
        """Return clean samples with standard normal noise brought to this step's level, as `x` is there."""
        ...


def sampler_for(
    scheduler: Any, *, steps: int, timesteps: Sequence[int] | None, eta: float, device: torch.device | str
) -> Sampler:
    """Prepare a run through exactly `steps` levels, or through exactly `timesteps`.

    Args:
        scheduler: any diffusers scheduler; it is not changed.
        steps: 1 to the number of trained levels; how they spread is the scheduler's `timestep_spacing`.
        timesteps: falling trained levels; then `steps` is ignored.
        eta: 0 is deterministic DDIM, 1 is DDPM; only DDIM knows it.
        device: where the samples are.

    Raises:
        InputError: steps out of range, a list that does not fall, or a scheduler that takes no list.
    """
    trained = int(scheduler.config.num_train_timesteps)
    if timesteps is not None:
        timesteps = _checked(timesteps, trained)
    elif not 1 <= steps <= trained:
        raise InputError(f"`steps` must lie between 1 and {trained}; got {steps}.")
    if not 0 <= eta <= 1:
        raise InputError(f"`eta` must lie between 0 and 1; got {eta}.")
    if isinstance(scheduler, DDIMScheduler) and not scheduler.config["thresholding"]:
        return DDIMSampler(scheduler, _spread(scheduler.config, steps) if timesteps is None else timesteps, eta=eta)
    return SchedulerSampler(scheduler, steps=steps, timesteps=timesteps, eta=eta, device=device)


class DDIMSampler:
    """DDIM (arXiv 2010.02502), from each listed level to the next one in the list.

    With a = alpha_bar of this level and b that of the next, equations 12 and 16 are

        s  = eta sqrt((1 - b) / (1 - a)) sqrt(1 - a / b)
        x' = sqrt(b) clean + sqrt(1 - b - s^2) noise + s fresh noise

    where clean and noise are what the prediction says of x.  After the last level comes what the scheduler calls
    final: clean, or as in Stable Diffusion and MVDream the first trained one (`set_alpha_to_one=False`).
    """

    noise_level = 1.0

    def __init__(self, scheduler: DDIMScheduler, timesteps: Sequence[int], *, eta: float) -> None:
        self.timesteps = tuple(timesteps)
        self._prediction = scheduler.config["prediction_type"]
        self._clip = scheduler.config["clip_sample_range"] if scheduler.config["clip_sample"] else None
        self._eta = eta
        level = scheduler.alphas_cumprod.double().cpu()
        self._alpha_bar = torch.cat([level[list(timesteps)], scheduler.final_alpha_cumprod.double().cpu().reshape(1)])

    def scale(self, x: Float[Tensor, "b *shape"], index: int) -> Float[Tensor, "b *shape"]:
        """Return `x` itself."""
        return x

    def step(
        self,
        predicted: Float[Tensor, "b *shape"],
        index: int,
        x: Float[Tensor, "b *shape"],
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "b *shape"]:
        """Take one step; see `Sampler.step`."""
        now, following = self._alpha_bar[index], self._alpha_bar[index + 1]
        clean, noise = decompose(predicted, x, now.reshape(1), prediction=self._prediction)
        if self._clip is not None:
            clean = clean.clamp(-self._clip, self._clip)
        fresh = self._eta * ((1 - following) / (1 - now) * (1 - now / following)).clamp_min(0).sqrt()  # equation 16
        x = following.sqrt().item() * clean + (1 - following - fresh**2).clamp_min(0).sqrt().item() * noise
        if fresh > 0:
            x = x + fresh.item() * draw(x.shape[1:], generators).to(x)
        return x

    def add_noise(
        self, clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], index: int
    ) -> Float[Tensor, "b *shape"]:
        """Return x_t of clean samples; see `Sampler.add_noise`."""
        return compose(clean, noise, self._alpha_bar[index].reshape(1))


class SchedulerSampler:
    """Any diffusers scheduler, through its own methods, on a copy of it."""

    def __init__(
        self,
        scheduler: Any,
        *,
        steps: int,
        timesteps: Sequence[int] | None,
        eta: float,
        device: torch.device | str,
    ) -> None:
        self._scheduler = copy.deepcopy(scheduler)
        if timesteps is None:
            self._scheduler.set_timesteps(steps, device=device)
        elif "timesteps" in inspect.signature(self._scheduler.set_timesteps).parameters:
            self._scheduler.set_timesteps(timesteps=list(timesteps), device=device)
        else:
            name = type(scheduler).__name__
            raise InputError(f"`timesteps` must be None for {name}, which takes no list. Use DDIMScheduler.")
        self.timesteps = self._scheduler.timesteps
        self.noise_level = float(self._scheduler.init_noise_sigma)
        accepted = inspect.signature(self._scheduler.step).parameters
        self._options = {"eta": eta} if "eta" in accepted else {}
        self._takes_generators = "generator" in accepted

    def scale(self, x: Float[Tensor, "b *shape"], index: int) -> Float[Tensor, "b *shape"]:
        """Return `x` as the scheduler scales it for the network."""
        return self._scheduler.scale_model_input(x, self.timesteps[index])

    def step(
        self,
        predicted: Float[Tensor, "b *shape"],
        index: int,
        x: Float[Tensor, "b *shape"],
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "b *shape"]:
        """Take one step; see `Sampler.step`."""
        options: dict[str, Any] = {"generator": list(generators)} if self._takes_generators else {}
        (x, *_) = self._scheduler.step(
            predicted, self.timesteps[index], x, return_dict=False, **self._options, **options
        )
        return x

    def add_noise(
        self, clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], index: int
    ) -> Float[Tensor, "b *shape"]:
        """Return clean samples with noise as the scheduler adds it; see `Sampler.add_noise`."""
        return self._scheduler.add_noise(clean, noise, self.timesteps[index].expand(len(clean)))


def named_scheduler(name: str, *, like: Any) -> Any:
    """Return one of diffusers' schedulers by its short name, with the noise schedule of another one.

    Raises:
        InputError: an unknown name.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise InputError(f"`scheduler` must be one of {', '.join(SCHEDULERS)}; got '{name}'.")
    return getattr(diffusers, SCHEDULERS[name]).from_config(like.config)


def draw(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Float[Tensor, "b *shape"]:
    """Return standard normal float32 numbers on the CPU, one sample a generator: the same on every device and batch."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def _spread(config: Any, steps: int) -> tuple[int, ...]:
    """Return exactly `steps` distinct levels, noisiest first, spread as in arXiv 2305.08891, table 2."""
    trained, spacing = int(config["num_train_timesteps"]), config["timestep_spacing"]
    match spacing:
        case "trailing":
            rising = [round(trained * (i + 1) / steps) - 1 for i in range(steps)]
        case "leading":
            stride = trained // steps
            offset = min(int(config["steps_offset"]), trained - 1 - (steps - 1) * stride)  # never past the last level
            rising = [i * stride + offset for i in range(steps)]
        case "linspace":
            rising = [round((trained - 1) * i / max(steps - 1, 1)) for i in range(steps)]
        case _:
            raise InputError(f"`timestep_spacing` must be trailing, leading or linspace; got '{spacing}'.")
    return tuple(reversed(rising))


def _checked(timesteps: Sequence[int], trained: int) -> list[int]:
    steps = [int(t) for t in timesteps]
    if not steps or not all(0 <= t < trained for t in steps):
        raise InputError(f"`timesteps` must be one or more numbers from 0 to {trained - 1}; got {steps}.")
    if any(later >= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
        raise InputError(f"`timesteps` must fall from noisy to clean, without repeats; got {steps}.")
    return steps
