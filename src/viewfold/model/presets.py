"""The networks that we know by name: their sizes, and where each number comes from.

Read by training (a new network) and by `weights` (the layout that a released file turns out to have).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from viewfold.errors import InputError

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from viewfold.model.unet import MultiViewUNet


@dataclass(frozen=True, kw_only=True)
class UNetLayout:
    """The size of a `MultiViewUNet`; everything that a checkpoint's shapes tell, and the heads, which they do not."""

    channels: tuple[int, ...]
    """Channels of each level, finest first."""

    attention: tuple[bool, ...]
    """Which levels have transformer blocks; the middle always has one."""

    n_resnets: int = 2
    """Residual blocks per level going down (one more going up)."""

    latent_channels: int = 4
    """Channels of the latents."""

    text_dim: int = 1024
    """Features of a text token."""

    heads: int | None = None
    """Heads in every attention layer (SD 1.5 style); give this or `head_channels`."""

    head_channels: int | None = None
    """Channels of each head, so that wide levels have more heads (SD 2.1 style)."""

    linear_projection: bool = True
    """Enter and leave the transformer blocks through linear layers (SD 2.1) or 1x1 convolutions (SD 1.5)."""

    camera_dim: int | None = 16
    """Numbers that describe a camera; None for a plain 2D network."""

    latent_size: int = 32
    """Height and width of the latents in training; any other works."""

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.channels):
            raise InputError(
                f"`attention` must have one entry per level ({len(self.channels)}); got {len(self.attention)}."
            )
        if (self.heads is None) == (self.head_channels is None):
            raise InputError(
                "`heads` or `head_channels` must be given, not both: the shapes of weights do not tell them. "
                "Use `head_channels` 64 for a network like SD 2.1's and `heads` 8 for one like SD 1.5's."
            )
        size = self.heads if self.heads is not None else self.head_channels
        for channels in self.channels:
            if not size or size < 1 or channels % size:
                name = "heads" if self.heads is not None else "head_channels"
                raise InputError(f"`{name}` must divide the channels of each level {self.channels}; got {size}.")

    @property
    def n_heads(self) -> tuple[int, ...]:
        """Heads at each level."""
        return tuple(self.heads or channels // (self.head_channels or channels) for channels in self.channels)

    def config(self) -> dict[str, Any]:
        """Return the arguments of `MultiViewUNet` (diffusers' names)."""
        levels = range(len(self.channels))
        down = ["CrossAttnDownBlock2D" if self.attention[i] else "DownBlock2D" for i in levels]
        up = ["CrossAttnUpBlock2D" if self.attention[i] else "UpBlock2D" for i in reversed(levels)]
        return {
            "sample_size": self.latent_size,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "block_out_channels": self.channels,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "layers_per_block": self.n_resnets,
            "cross_attention_dim": self.text_dim,
            "attention_head_dim": self.n_heads,  # diffusers' name; it means the number of heads
            "use_linear_projection": self.linear_projection,
            "norm_num_groups": math.gcd(32, *self.channels),
            "class_embed_type": None if self.camera_dim is None else "projection",
            "projection_class_embeddings_input_dim": self.camera_dim,
        }

    def build(self) -> MultiViewUNet:
        """Return a network of this layout with diffusers' initial weights."""
        from viewfold.model.unet import MultiViewUNet

        return MultiViewUNet(**self.config())


TOYBOX = UNetLayout(
    channels=(128, 192),
    attention=(True, False),
    n_resnets=1,
    latent_channels=8,
    text_dim=384,
    head_channels=32,
    latent_size=8,
)
"""The shipped model: 9.2 M parameters on 8 x 8 x 8 latents.  Views meet at 8 x 8 and in the middle at 4 x 4; blocks of
attention on both levels cost a seventh of the speed and 2.7 M parameters more."""


def toybox_scheduler() -> DDIMScheduler:
    """Return the noise schedule of the shipped model.

    Squared cosine (arXiv 2102.09672) rather than SD's scaled linear: 64 cells tell so little under noise that SD's
    schedule would spend most of its steps where nothing is left to see.  It ends in pure noise, hence v prediction
    and trailing steps (arXiv 2305.08891).
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


# Sources of both: bytedance/MVDream `configs/sd-v2-base.yaml` and `sd-v1.yaml` (commit 618f844).
MVDREAM_SD21 = UNetLayout(
    channels=(320, 640, 1280, 1280), attention=(True, True, True, False), text_dim=1024, head_channels=64
)
"""`sd-v2.1-base-4view`: 867.57 M parameters."""

MVDREAM_SD15 = UNetLayout(
    channels=(320, 640, 1280, 1280),
    attention=(True, True, True, False),
    text_dim=768,
    heads=8,
    linear_projection=False,
)
"""`sd-v1.5-4view`: 861.18 M parameters."""
