"""Prompts to token states: one class over any tokenizer and any text network of transformers.

Used by every flow (training, sampling and distillation read prompts), by itself where a network is conditioned on token
states and nothing else, as `MultiViewUNet` is, or within another network's own reader.  Two ways of padding: networks
with an attention mask (BERT) get one, and their padding comes out as zeros; CLIP is fed as MVDream feeds it, padded to
77 with no mask.  Knows nothing of diffusion.
"""

from __future__ import annotations

import difflib
import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.errors import FitError, PromptError, is_panic
from viewfold.model.condition import Condition

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = "tokens"
"""Name of the token states, "b n d" (or one text per view, "b v n d"), in a network's condition."""

MAX_TOKENS = 77
"""Length used where a tokenizer states none (transformers then says 1e30): CLIP's."""

ENDINGS = frozenset({"##s", "##es", "##ed", "##d", "##ing", "##er", "##y", "##ly", "##ish", "##like"})
"""Pieces that leave the word before them known."""

UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that are read as blanks: controls, formats, surrogates, line ends."""

N_NEAR = 3
"""How many near words a message names."""


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and the network that reads its tokens; both stock transformers classes."""

    tokenizer: PreTrainedTokenizerBase
    network: PreTrainedModel

    @property
    def n_tokens(self) -> int:
        """Tokens of every encoded prompt, the start, end and padding included."""
        length = int(self.tokenizer.model_max_length)
        limit = int(getattr(self.network.config, "max_position_embeddings", MAX_TOKENS))
        return min(length if length < 1_000_000 else MAX_TOKENS, limit)

    @property
    def masks_padding(self) -> bool:
        """Whether an attention mask hides padding from the network; from CLIP it does not (its attention is causal)."""
        return not str(self.network.config.model_type).startswith("clip")

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Return the token states of each prompt as the condition of a network; see `states`."""
        return Condition({TOKENS: self.states(prompts)})

    @torch.no_grad()
    def states(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Return the token states of each prompt, in the network's type and on its device.

        The empty string is allowed: it is the unconditional text.  What does not fit into `n_tokens` is cut (`check`
        says what).  Prompts of the same number of tokens are read in one call of the network (all of them, where it is
        fed padding), so that a prompt's states do not depend on what it is read with, but for rounding.  Where the
        network masks padding, the states of the padding are zero.

        Raises:
            PromptError: no prompt, or one that is too long to read.
            FitError: the network's states are not finite.
        """
        if isinstance(prompts, str):
            raise PromptError(f"`prompts` must be a list; got the string {prompts[:40]!r}. Put it in a list.")
        if not prompts:
            raise PromptError("`prompts` must hold at least one prompt; got none. Give [''] for no text.")
        found_ids = self.ids(prompts)
        alike: dict[int, list[int]] = {}
        for place, ids in enumerate(found_ids):
            alike.setdefault(len(ids), []).append(place)
        states: dict[int, Tensor] = {}
        for places in alike.values():
            read = self._read([found_ids[place] for place in places])
            states |= dict(zip(places, read, strict=True))
        found = torch.stack([states[place] for place in range(len(prompts))])
        if not bool(found.isfinite().all()):
            raise FitError(
                "`text_encoder` must give finite states; got NaN or infinity. Check its weights, and use float32 or "
                "bfloat16 if float16 overflows."
            )
        return found

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the numbers of each prompt's tokens, marks included, cut and padded as the network takes them."""
        return self._tokens(
            [clean(prompt) for prompt in prompts],
            padding="do_not_pad" if self.masks_padding else "max_length",
            truncation=True,
            max_length=self.n_tokens,
            split_special_tokens=True,  # a typed "!", which SD 2.1 pads with, is a word; a typed mark ends nothing
        )["input_ids"]

    def _tokens(self, text: str | list[str], **options: Any) -> Any:
        """Return what the tokenizer says; a panic of its library, which is no `Exception`, is one line."""
        try:
            return self.tokenizer(text, **options)
        except BaseException as error:
            if not is_panic(error):
                raise
            raise PromptError(f"`prompt` must be one that this tokenizer reads: {str(error)[:160]}.") from error

    def _read(self, ids: list[list[int]]) -> Float[Tensor, "b n d"]:
        """Read prompts of one length; alone and unpadded, a masked network gives what it gives beside padding."""
        states = self.network(torch.tensor(ids, device=self.network.device)).last_hidden_state
        return torch.nn.functional.pad(states, (0, 0, 0, self.n_tokens - states.shape[1]))

    def check(self, prompt: str) -> list[str]:
        """Return what a person should know before using this prompt: words that are cut, words that are not known.

        Raises:
            PromptError: the prompt says nothing (empty, blanks, symbols alone) or is too long to read.
        """
        text = clean(prompt)
        ids = self._tokens(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        if not any(character.isalnum() or unicodedata.category(character) == "So" for character in text) or not ids:
            raise PromptError(f"`prompt` must describe something; got {prompt[:40]!r}. Try 'a red mug'.")
        if self.masks_padding and all(token == self.tokenizer.unk_token_id for token in ids):
            raise PromptError(f"`prompt` must hold words that the model reads; got {prompt[:40]!r}. Use English.")
        return self._cut(text, ids) + self._unknown(text)

    def _cut(self, text: str, ids: list[int]) -> list[str]:
        room = self.n_tokens - self.tokenizer.num_special_tokens_to_add()
        if len(ids) <= room:
            return []
        offsets = None
        if self.tokenizer.is_fast:
            code = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            offsets = code["offset_mapping"]
        lost = text[offsets[room][0] :] if offsets else str(self.tokenizer.decode(ids[room:]))
        shown = lost if len(lost) <= 80 else lost[:77] + "..."
        return [f"the prompt is longer than the {room} tokens that the model reads; ignored: '{shown.strip()}'"]

    def _unknown(self, text: str) -> list[str]:
        vocabulary = word_list(self.tokenizer)
        if vocabulary is None:
            return []
        notes = []
        for word in dict.fromkeys(split_words(text)):
            pieces = self.tokenizer.tokenize(word)
            if is_known(pieces):
                continue
            near = self.near_words(word)
            hint = f"; near words: {', '.join(near)}" if near else ""
            notes.append(f"the model does not know '{word[:40]}'{hint}")
        return notes

    def near_words(self, word: str) -> list[str]:
        """Return up to `N_NEAR` words of the vocabulary that are spelt like `word`, or begin as it does."""
        vocabulary = word_list(self.tokenizer) or ()
        word = word.lower()[:40]
        near = difflib.get_close_matches(word, vocabulary, n=N_NEAR, cutoff=0.6)
        starts = [other for other in vocabulary if len(other) > 3 and (word.startswith(other) or word.endswith(other))]
        return list(dict.fromkeys(near + sorted(starts, key=len, reverse=True)))[:N_NEAR]


def clean(prompt: str) -> str:
    """Return the prompt without control characters and doubled blanks; `PromptError` if it is no text or huge."""
    if not isinstance(prompt, str):
        raise PromptError(f"`prompt` must be a string; got {type(prompt).__name__}. Write what the object is.")
    if len(prompt) > limits.PROMPT_CHARACTERS:
        raise PromptError(
            f"`prompt` must have at most {limits.PROMPT_CHARACTERS} characters; got {len(prompt)}. Shorten it."
        )
    kept = (" " if unicodedata.category(char) in UNSEEN else char for char in prompt)
    return " ".join("".join(kept).split())


def split_words(text: str) -> list[str]:
    """Return the words of two letters or more, hyphens and apostrophes splitting them."""
    spaced = "".join(character if character.isalpha() else " " for character in text.lower())
    return [word for word in spaced.split() if len(word) > 1]


def is_known(pieces: list[str]) -> bool:
    """Return whether WordPiece read a word whole: one piece, or a word of three letters and a common ending."""
    if len(pieces) == 1:
        return pieces[0] != "[UNK]"
    return len(pieces) == 2 and len(pieces[0]) > 2 and pieces[1] in ENDINGS


@functools.lru_cache(maxsize=8)
def _words(vocabulary: frozenset[str]) -> tuple[str, ...] | None:
    if not any(token.startswith("##") for token in vocabulary):
        return None
    return tuple(sorted(token for token in vocabulary if len(token) > 2 and token.isascii() and token.isalpha()))


def word_list(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...] | None:
    """Return the whole words of a WordPiece vocabulary; None for others (CLIP's pieces do not tell what it knows)."""
    return _words(frozenset(tokenizer.get_vocab()))
