"""The networks that MVDream says are worse than its own, one change each, for `claims.py`.

    views   how the views of an object meet        "fold"    the 2D self-attention sees all of them (MVDream's)
                                                   "alone"   they do not
                                                   "pixel"   a new attention beside each, over the same pixel of
                                                             all views, as video models have over time
                                                   "new"     a new attention beside each, over all tokens
    camera  how a camera is told                   "time"    added to the time embedding (MVDream's)
                                                   "text"    a token behind those of the text
                                                   "none"    not at all
    frame   what its 16 numbers are relative to    "world"   the object's own frame (MVDream's)
                                                   "first"   the camera of the first view

Source: arXiv 2308.16512, sections 3.1.1 (attention), 3.1.2 and appendix (cameras).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from viewfold.camera import Cameras
from viewfold.model.condition import Condition
from viewfold.model.text import TOKENS
from viewfold.model.unet import CAMERA_DIM, MultiViewUNet

Meeting = Literal["fold", "alone", "pixel", "new"]
Told = Literal["time", "text", "none"]
Frame = Literal["world", "first"]


class CrossView(nn.Module):
    """An attention processor: each view to itself, and a new layer across views, whose output begins as zero."""

    def __init__(self, attn: Attention, meeting: Meeting) -> None:
        super().__init__()
        self.meeting, width, heads = meeting, attn.query_dim, attn.heads
        self.across = Attention(query_dim=width, heads=heads, dim_head=width // heads)
        for parameter in cast(Any, self.across.to_out)[0].parameters():
            nn.init.zeros_(parameter)

    def __call__(  # diffusers passes on the arguments that this signature names, and drops the others
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        n_views: int = 1,
    ) -> Tensor:
        alone = _attend(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if n_views == 1:  # a picture: the network as it was in 2D
            return alone
        bv, n, c = hidden_states.shape
        if self.meeting == "new":
            seen = self.across(hidden_states.reshape(-1, n_views * n, c)).reshape(bv, n, c)
        else:
            pixels = hidden_states.reshape(-1, n_views, n, c).transpose(1, 2).reshape(-1, n_views, c)
            seen = self.across(pixels).reshape(-1, n, n_views, c).transpose(1, 2).reshape(bv, n, c)
        return alone + seen


_attend = AttnProcessor2_0()


class Alone:
    """An attention processor: each view to itself, or to its own text."""

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, n_views: int = 1, **kwargs: Any) -> Tensor:
        return _attend(attn, hidden_states, *args, **kwargs)


class Variant(MultiViewUNet):
    """A `MultiViewUNet` with other ways for views to meet and cameras to be told; trained and sampled as one."""

    def vary(self, *, views: Meeting, camera: Told, frame: Frame) -> Variant:
        """Change a network that was trained in 2D; what is new begins with no effect."""
        self.views, self.camera, self.frame = views, camera, frame
        if views != "fold":
            for block in self._blocks():
                block.attn1.set_processor(Alone() if views == "alone" else CrossView(block.attn1, views))
                block.attn2.set_processor(Alone())
        if camera == "time":
            self.add_camera_embedding()
        elif camera == "text":
            self.camera_token = TimestepEmbedding(CAMERA_DIM, self.config["cross_attention_dim"])
        return self

    def _blocks(self) -> list[Any]:
        return [block for block in self.modules() if type(block).__name__ == "BasicTransformerBlock"]

    def _check_processors(self) -> bool:
        return super()._check_processors() if self.views == "fold" else False

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, latents: Tensor, timesteps: Tensor | int, text: Condition | Tensor, cameras: Cameras | None = None
    ) -> Tensor:
        codes = None if cameras is None or self.camera == "none" else self._codes(cameras, *latents.shape[:2])
        states = text.part(TOKENS) if isinstance(text, Condition) else text
        if codes is not None and self.camera == "text":
            token = self.camera_token(codes)[:, :, None]
            states = torch.cat([states[:, None].expand(-1, codes.shape[1], -1, -1), token], dim=2)
            codes = None
        return super().forward(latents, timesteps, states, codes)

    def _codes(self, cameras: Cameras, n_objects: int, n_views: int) -> Tensor:
        each = cameras.per_object(n_objects, n_views)
        if self.frame == "world":
            return each.code().unflatten(0, (n_objects, n_views))
        poses = each.code().reshape(n_objects, n_views, 4, 4)  # of distance 1, as the network knows them
        return (torch.linalg.inv(poses[:, :1]) @ poses).flatten(2)
