"""The view fold: self-attention that sees every view of an object at once.  This is all that MVDream adds to attention.

Sits at the bottom of `model`; it knows neither cameras nor the network around it.  Source: MVDream (arXiv 2308.16512)
section 3.1.1: tokens `(b v) n c -> b (v n) c`, ordinary attention with the same weights as in 2D, and back.
"""

from __future__ import annotations

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor


class ViewFold:
    """An attention processor without state: the number of views arrives with each call.

    State here would be read wrongly by recomputation under gradient checkpointing and by two requests at once.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "bv n c"],
        encoder_hidden_states: Float[Tensor, "texts m d"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        n_views: int = 1,
    ) -> Float[Tensor, "bv n c"]:
        """Attend from every token of an object's views to all of them, or to the text.

        Views of one object are contiguous.  Text may come once per object or once per view: queries that share a text
        are folded together, so keys and values are projected once for each text, whatever the number of views.
        """
        to_self = encoder_hidden_states is None
        groups = hidden_states.shape[0] // n_views if to_self else encoder_hidden_states.shape[0]
        folded = hidden_states.reshape(groups, -1, hidden_states.shape[-1])  # (b v) n c -> b (v n) c
        attended = _attend(attn, folded, encoder_hidden_states, attention_mask, temb)
        return attended.reshape(hidden_states.shape)  # b (v n) c -> (b v) n c


_attend = AttnProcessor2_0()  # scaled dot-product attention; holds no state either
