"""Prompts become token states that depend on nothing but the prompt; a person hears what the model will not read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import viewfold
from viewfold.errors import PromptError
from viewfold.limits import PROMPT_CHARACTERS
from viewfold.model.text import TextEncoder, clean

FOLDER = Path(viewfold.__file__).parent / "models" / "toybox"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    from transformers import BertTokenizerFast
    from transformers.models.bert.modeling_bert import BertModel

    network = BertModel.from_pretrained(FOLDER / "text_encoder", add_pooling_layer=False, dtype=torch.float32)
    return TextEncoder(BertTokenizerFast.from_pretrained(FOLDER / "tokenizer"), network.eval())


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> TextEncoder:
    """A tiny CLIP: the real class and byte-pair tokenizer over letters alone."""
    import json

    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{x}</w>" for x in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    config = CLIPTextConfig(vocab_size=len(vocabulary), **sizes, **ends, pad_token_id=ends["eos_token_id"])
    return TextEncoder(tokenizer, CLIPTextModel(config).eval())


def test_states_depend_on_the_prompt_alone(encoder):
    together = encoder.states(["a red mug", "", "a crimson settee with a navy trim"])
    assert together.shape == (3, 32, 384)
    for i, prompt in enumerate(["a red mug", "", "a crimson settee with a navy trim"]):
        assert torch.equal(encoder.states([prompt])[0], together[i])


def test_padding_of_a_masked_network_is_zero_and_changes_nothing(encoder):
    states = encoder.states(["a red mug"])
    assert states[0, :5].abs().min(dim=-1).values.max() > 0 and not states[0, 5:].any()
    code = encoder.tokenizer(["a red mug"], padding="max_length", max_length=32, return_tensors="pt")
    with torch.no_grad():
        padded = encoder.network(**code).last_hidden_state
    torch.testing.assert_close(padded[0, :5], states[0, :5], atol=2e-5, rtol=0)


def test_features_are_standardised_over_descriptions(encoder):
    states = encoder.states(["a red car with a blue roof", "a green chair with white legs", "a yellow snowman"])
    states = states[states.abs().sum(-1) > 0]
    assert abs(states.mean()) < 0.1 and 0.8 < states.std() < 1.2


def nearest(encoder: TextEncoder, word: str, others: list[str]) -> str:
    embed = encoder.network.get_input_embeddings().weight
    ids = [encoder.tokenizer.convert_tokens_to_ids(token) for token in [word, *others]]
    rows = torch.nn.functional.normalize(embed[ids].float(), dim=-1)
    return others[int((rows[1:] @ rows[0]).argmax())]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("crimson", "red"), ("navy", "blue"), ("emerald", "green"), ("lilac", "purple"), ("timber", "brown")],
)
def test_colour_words_lie_by_the_colour_that_they_look_like(encoder, word, meaning):
    assert nearest(encoder, word, ["red", "blue", "green", "purple", "brown", "yellow", "white", "black"]) == meaning


@pytest.mark.parametrize(
    ("word", "meaning"), [("settee", "sofa"), ("automobile", "car"), ("toadstool", "mushroom"), ("cottage", "house")]
)
def test_synonyms_lie_by_the_usual_name(encoder, word, meaning):
    assert nearest(encoder, word, ["sofa", "car", "mushroom", "house", "robot", "mug"]) == meaning


@pytest.mark.parametrize("prompt", ["a red mug", "A Red MUG!", "two settees, reddish", "a teddy-bear's teapots"])
def test_known_words_pass_in_silence(encoder, prompt):
    assert encoder.check(prompt) == []


def test_an_unknown_word_is_named_with_near_ones(encoder):
    (note,) = encoder.check("a red windmil")
    assert "'windmil'" in note and "windmill" in note
    assert "'xylograph'" in encoder.check("a xylograph")[0]


def test_words_that_are_cut_are_named(encoder):
    (note,) = encoder.check("a red mug " * 10 + "with a blue handle")
    assert "30 tokens" in note and note.endswith("with a blue handle'")
    assert encoder.states(["a red mug " * 40]).shape == (1, 32, 384)


@pytest.mark.parametrize("prompt", ["", "  \n", "...", "\x00\x07", "🦄", "猫"])
def test_a_prompt_that_says_nothing_is_refused(encoder, prompt):
    with pytest.raises(PromptError, match="`prompt` must"):
        encoder.check(prompt)


def test_a_huge_prompt_is_refused_before_it_is_read(encoder):
    with pytest.raises(PromptError, match=str(PROMPT_CHARACTERS)):
        encoder.states(["a" * (PROMPT_CHARACTERS + 1)])
    assert encoder.check("z " * (PROMPT_CHARACTERS // 2))
    with pytest.raises(PromptError, match="words that the model reads"):
        encoder.check("z" * PROMPT_CHARACTERS)


def test_lists_of_prompts_are_lists(encoder):
    with pytest.raises(PromptError, match="at least one"):
        encoder.states([])
    with pytest.raises(PromptError, match="must be a list"):
        encoder.states("a red mug")


def test_control_characters_read_as_blanks():
    assert clean("a\x00red\n\u200bmug ") == "a red mug"


def test_every_ascii_word_tokenises(encoder):
    tokens = encoder.tokenizer.tokenize("qzxjv 90210 #!? \\ ~ wyvern")
    assert "[UNK]" not in tokens


def test_clip_is_fed_77_tokens_without_a_mask(clip):
    states = clip.states(["a red mug"])
    ids = clip.tokenizer(["a red mug"], padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(states, clip.network(ids).last_hidden_state)
    assert states.shape == (1, 77, 16) and states[0, -1].any()
    assert clip.check("a xylograph") == []
    assert "75 tokens" in clip.check("mug " * 60)[0]
