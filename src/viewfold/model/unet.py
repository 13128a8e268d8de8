"""The multi-view network: the stock diffusers UNet, folding self-attention, the camera as class embedding.

Sits between `attention` and the pipeline or the training loop, which see only what `backbone.Backbone` asks.  Cameras
become 16 numbers a view, and the view axis is folded away, here and nowhere else.  Source: MVDream (arXiv 2308.16512)
section 3.1 and its released `MultiViewUNetModel`, whose weights map one to one (see `weights`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding
from jaxtyping import Float, Num
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.model.attention import ViewFold
from viewfold.model.condition import Condition
from viewfold.model.text import MAX_TOKENS, TOKENS, TextEncoder

CAMERA_DIM = 16
"""Numbers that describe a camera: the row-major 4x4 world_from_camera (`Cameras.code`)."""


class MultiViewUNet(UNet2DConditionModel):
    """A `UNet2DConditionModel` whose self-attention crosses the views of an object; arguments and files alike."""

    @functools.wraps(UNet2DConditionModel.__init__)  # diffusers reads the configuration's names off this signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("class_embed_type", "projection")
        kwargs.setdefault("projection_class_embeddings_input_dim", CAMERA_DIM)
        super().__init__(*args, **kwargs)
        self.set_default_attn_processor()

    def set_default_attn_processor(self) -> None:
        """Put the view fold (back) on every attention layer."""
        self.set_attn_processor(ViewFold())  # type: ignore[arg-type]  # diffusers lists its own alone

    def add_camera_embedding(self) -> None:
        """Give a plain 2D network the camera's MLP, its last layer zero: at first it draws what it drew before.

        Nothing happens where there is one already.  This is how training starts from Stable Diffusion.
        """
        if self.class_embedding is not None:
            return
        embedding = TimestepEmbedding(CAMERA_DIM, self.time_embedding.linear_2.out_features)
        torch.nn.init.zeros_(embedding.linear_2.weight)
        torch.nn.init.zeros_(embedding.linear_2.bias)
        self.class_embedding = embedding.to(device=self.device, dtype=self.dtype)
        self.register_to_config(class_embed_type="projection", projection_class_embeddings_input_dim=CAMERA_DIM)

    @staticmethod
    def reader(tokenizer: Any, text_encoder: Any) -> TextEncoder:
        """Return what reads prompts for this network: the states of their tokens, and nothing else."""
        return TextEncoder(tokenizer, text_encoder)

    def example_inputs(self, n_objects: int, cameras: Cameras) -> tuple[Tensor, Tensor, Condition, Cameras | None]:
        """Return arguments of `forward` of the usual sizes, to count its work; their numbers mean nothing."""
        size, channels, text_dim = (self.config[n] for n in ("sample_size", "in_channels", "cross_attention_dim"))
        return (
            torch.zeros(n_objects, len(cameras), channels, size, size),
            torch.zeros(n_objects, dtype=torch.int64),
            Condition({TOKENS: torch.zeros(n_objects, MAX_TOKENS, text_dim)}),
            cameras if self.class_embedding is not None else None,  # None: a plain 2D network
        )

    def get_class_embed(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """Embed the cameras; without cameras add nothing, which is not the embedding of zeros."""
        return None if class_labels is None else super().get_class_embed(sample, class_labels)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        latents: Float[Tensor, "b v c h w"],
        timesteps: Num[Tensor, "*b"] | int | float,
        text: Condition | Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
        cameras: Cameras | Float[Tensor, "b v 16"] | None = None,
    ) -> Float[Tensor, "b v c h w"]:
        """Predict what the network was trained for (noise, or v) for every view.

        Args:
            latents: noisy latents; the views of one object attend to each other, objects never do.
            timesteps: 0 to 999, one per object or one for all.
            text: what the reader made of one prompt per object, or token states, of one text per object or per view.
            cameras: `v` that all objects share, or `b * v`, or codes (`Cameras.code`); None adds nothing to the time
                embedding.  One view without camera is plain 2D.

        Raises:
            InputError: shapes that do not fit, another network's condition, cameras for a network that has no camera
                embedding, or a self-attention layer that no longer folds the views.
        """
        timesteps = torch.as_tensor(timesteps, device=latents.device)
        states, codes = self._conditions(latents, text, cameras)
        n_objects, n_views = self._check(latents, timesteps, states, codes)
        texts_folded = self._check_processors()
        if states.ndim == 4:
            states = states.flatten(0, 1)
        elif not texts_folded:  # a foreign cross-attention (an adapter's) expects one text per view
            states = states.repeat_interleave(n_views, dim=0)
        (noise,) = super().forward(
            latents.flatten(0, 1),
            timesteps.expand(n_objects).repeat_interleave(n_views),
            states.to(latents.dtype),
            class_labels=None if codes is None else codes.to(latents).flatten(0, 1),
            cross_attention_kwargs={"n_views": n_views},
            return_dict=False,
        )
        return noise.unflatten(0, (n_objects, n_views))

    @staticmethod
    def _conditions(latents: Tensor, text: Condition | Tensor, cameras: Cameras | Tensor | None) -> tuple[Any, Any]:
        """Return token states and the 16 numbers of each view, "b v 16" or None, of whatever forms they come in."""
        states = text.part(TOKENS) if isinstance(text, Condition) else text
        if isinstance(cameras, Cameras) and latents.ndim == 5:  # other latents are refused with the shapes
            lead = latents.shape[:2]
            return states, cameras.per_object(*lead).code().unflatten(0, lead)
        return states, cameras

    def _check(self, latents: Tensor, timesteps: Tensor, text: Tensor, cameras: Tensor | None) -> tuple[int, int]:
        """Return the numbers of objects and views, or say which argument does not fit."""
        channels, text_dim = self.config["in_channels"], self.config["cross_attention_dim"]
        if latents.ndim != 5 or latents.shape[2] != channels:
            raise InputError(f"`latents` must be (b, v, {channels}, h, w); got {tuple(latents.shape)}.")
        lead = latents.shape[0], latents.shape[1]
        if timesteps.numel() != 1 and timesteps.shape != lead[:1]:
            raise InputError(
                f"`timesteps` must be one number or one per object ({lead[0]}); got {tuple(timesteps.shape)}."
            )
        if text.ndim not in (3, 4) or tuple(text.shape[: text.ndim - 2]) != lead[: text.ndim - 2]:
            wanted = f"({lead[0]}, n, {text_dim}) or ({lead[0]}, {lead[1]}, n, {text_dim})"
            raise InputError(f"`text` must be {wanted} for these latents; got {tuple(text.shape)}.")
        if isinstance(text_dim, int) and text.shape[-1] != text_dim:
            raise InputError(
                f"`text` must have {text_dim} features a token; got {text.shape[-1]}. Use this model's text encoder."
            )
        if cameras is not None:
            if self.class_embedding is None:
                raise InputError(
                    "the network must have a camera embedding to draw views; this one is a plain 2D network. Train it "
                    "with `viewfold train`, which adds one (`add_camera_embedding`), or give it no cameras."
                )
            if tuple(cameras.shape) != (*lead, CAMERA_DIM):
                raise InputError(f"`cameras` must be {(*lead, CAMERA_DIM)}; got {tuple(cameras.shape)}.")
        return lead

    def _check_processors(self) -> bool:
        """Refuse to run when a self-attention layer no longer folds; return whether every cross-attention does.

        Attention slicing, QKV fusion and other libraries replace processors silently; the views would then ignore
        each other without any error.
        """
        texts_folded = True
        for block in self.modules():
            if not isinstance(block, BasicTransformerBlock):
                continue
            if not isinstance(block.attn1.processor, ViewFold):
                found = type(block.attn1.processor).__name__
                raise InputError(
                    f"`unet` must fold the views in each self-attention layer; got a layer with {found}, so that the "
                    "views would not see each other. Call `unet.set_default_attn_processor()`; attention slicing "
                    "and fused projections are not supported."
                )
            if block.attn2 is not None:
                texts_folded &= isinstance(block.attn2.processor, ViewFold)
        return texts_folded
