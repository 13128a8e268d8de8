"""Real objects in miniature: whole models of a few thousand parameters with random weights.

tiny_model()              a MultiViewPipeline: 16 px pictures, 4x4 latents of 4 channels, 32-d text tokens
tiny_model(folder)        the same, saved there as `load` reads it
TinyDiT                   a second kind of network: a transformer, another kind of text, rays instead of 16 numbers
GaussianDenoiser          the exact answer for data from one Gaussian, so that samplers have known results
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from viewfold.camera import Cameras
from viewfold.model.condition import Condition
from viewfold.model.text import TextEncoder
from viewfold.model.unet import MultiViewUNet
from viewfold.pipeline import MultiViewPipeline

WORDS = "a an the red green blue yellow white mug car chair house robot duck with and on of roof wheels".split()
SCHEDULERS = [
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
]
"""Walks other than DDIM's."""

OLD_NUMPY = "ignore:__array__ implementation:DeprecationWarning"
"""diffusers' schedulers make NumPy arrays of tensors in a way that NumPy 2 will stop supporting."""

TEXT_DIM, TEXT_LENGTH, LATENT_CHANNELS, LATENT_SIZE = 32, 12, 4, 4


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that knows `WORDS`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=TEXT_LENGTH,
    )


def tiny_text_encoder() -> BertModel:
    """A BERT of one layer."""
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=TEXT_DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=TEXT_LENGTH,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def tiny_vae() -> AutoencoderKL:
    """An autoencoder that shrinks pictures four times."""
    levels: dict[str, Any] = {  # diffusers annotates these as tuples of one
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        **levels,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.1,
        mid_block_add_attention=False,
    ).eval()


def tiny_unet() -> MultiViewUNet:
    """A multi-view UNet of two levels."""
    settings = {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": (16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": TEXT_DIM,
    }
    return MultiViewUNet.from_config(settings).eval()  # type: ignore[union-attr,return-value]


def tiny_scheduler(**changes: Any) -> DDIMScheduler:
    """The scheduler of the shipped model."""
    settings = {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    return DDIMScheduler(**{**settings, **changes})


def tiny_model(folder: str | Path | None = None, *, unet: nn.Module | None = None, seed: int = 0) -> MultiViewPipeline:
    """A whole model with random weights; saved to `folder` if one is given."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = MultiViewPipeline(
            vae=tiny_vae(),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            unet=tiny_unet() if unet is None else unet,
            scheduler=tiny_scheduler(),
        )
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline


@dataclass(frozen=True)
class WordsAndGist:
    """The prompt reader of `TinyDiT`: halves of token states as words, and their mean over the prompt as its gist."""

    tokenizer: Any
    network: Any

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Return both; neither has a name that the UNet reads."""
        states = self._text.states(prompts)
        return Condition({"words": states[..., : TEXT_DIM // 2], "gist": states.mean(dim=1)})

    def check(self, prompt: str) -> list[str]:
        """Return the doubts of the text encoder."""
        return self._text.check(prompt)

    @property
    def _text(self) -> TextEncoder:
        return TextEncoder(self.tokenizer, self.network)


class TinyDiT(ModelMixin, ConfigMixin):
    """A second kind of network: views, pixels and words are one sequence of tokens, cameras are maps of rays.

    It has the calls of `Backbone` and nothing else in common with `MultiViewUNet`: no UNet, no convolution, another
    text, and where a pixel looks (its ray's direction and moment: Pluecker's six numbers) instead of 16 numbers a view.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = LATENT_CHANNELS, sample_size: int = LATENT_SIZE, text_dim: int = TEXT_DIM
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(in_channels, 16)
        self.place = nn.Parameter(torch.randn(sample_size**2, 16))
        self.read = nn.Linear(text_dim // 2, 16)
        self.gist = nn.Linear(text_dim, 16)
        self.ray = nn.Linear(6, 16)
        self.time = nn.Linear(2, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.leave = nn.Linear(16, in_channels)

    @staticmethod
    def reader(tokenizer: Any, text_encoder: Any) -> WordsAndGist:
        """Return the reader of its prompts."""
        return WordsAndGist(tokenizer, text_encoder)

    def add_camera_embedding(self) -> None:
        """Do nothing: it has one."""

    def example_inputs(self, n_objects: int, cameras: Cameras) -> tuple[Any, ...]:
        """Return inputs of the usual sizes."""
        size, channels, dim = (self.config[n] for n in ("sample_size", "in_channels", "text_dim"))
        told = {"words": torch.zeros(n_objects, TEXT_LENGTH, dim // 2), "gist": torch.zeros(n_objects, dim)}
        latents = torch.zeros(n_objects, len(cameras), channels, size, size)
        return latents, torch.zeros(n_objects, dtype=torch.int64), Condition(told), cameras

    def forward(
        self, latents: Tensor, timesteps: Tensor, condition: Condition, cameras: Cameras | None = None
    ) -> Tensor:
        """Return a prediction for every view: "b v c h w"."""
        b, v, _, h, w = latents.shape
        angle = torch.as_tensor(timesteps).to(latents).expand(b)[:, None] / 1000
        tokens = self.enter(latents.flatten(3).transpose(2, 3)) + self.place  # b v (h w) d
        whole = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1)) + self.gist(condition.part("gist").to(latents))
        tokens = tokens + whole[:, None, None]
        if cameras is not None:
            origins, directions = cameras.per_object(b, v).rays(h)
            rays = torch.cat([directions, torch.linalg.cross(origins, directions)], dim=-1)
            tokens = tokens + self.ray(rays.to(latents)).flatten(1, 2).unflatten(0, (b, v))
        words = self.read(condition.part("words").to(latents))
        joined = self.block(torch.cat([tokens.flatten(1, 2), words], dim=1))
        pixels = self.leave(joined[:, : v * h * w])
        return pixels.reshape(b, v, h, w, -1).movedim(-1, 2)


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """The exact noise prediction for latents that are normal numbers with one mean and deviation.

    Numbers at the same place of different views have a correlation, all others are independent.
    """

    @register_to_config
    def __init__(
        self,
        mean: float = 1.5,
        std: float = 0.5,
        correlation: float = 0.0,
        in_channels: int = LATENT_CHANNELS,
        sample_size: int = 16,
    ) -> None:
        super().__init__()
        self.mean, self.std, self.correlation = mean, std, correlation
        self.register_buffer("alphas_cumprod", tiny_scheduler().alphas_cumprod)
        self.anchor = nn.Parameter(torch.zeros(1))  # gives the network a device and a dtype

    reader = staticmethod(TextEncoder)

    def forward(self, latents: Tensor, timesteps: Tensor, text: Condition, cameras: Cameras | None = None) -> Tensor:
        """Return E[noise | x_t], by linear regression: the distance from the mean over the variance, noise scaled.

        The covariance of the views has two eigenvalues: one for their average, one for what each has of its own.
        """
        alpha_bar = self.alphas_cumprod[timesteps.long()][:, None, None, None, None]  # type: ignore[index]
        own = self.std**2 * (1 - self.correlation)
        common = own + self.std**2 * self.correlation * latents.shape[1]
        off = latents - alpha_bar.sqrt() * self.mean
        average = off.mean(dim=1, keepdim=True)
        parts = (average, common), (off - average, own)
        return (1 - alpha_bar).sqrt() * sum(part / (alpha_bar * size + 1 - alpha_bar) for part, size in parts)
