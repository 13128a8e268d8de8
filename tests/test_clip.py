"""Text towers and the tokenizer of released models: the numbers of other implementations, and what is refused."""

from __future__ import annotations

import pytest
import torch
from released import LENGTH, N_TOKENS, OpenClipTower, clip_tensors, open_clip_tower, text_tensors
from torch import Tensor
from transformers import CLIPTextConfig

from viewfold.errors import WeightsError
from viewfold.model.text import TextEncoder
from viewfold.weights.clip import read_text_config, text_sources
from viewfold.weights.original import text_encoder_from_original
from viewfold.weights.tokenizer import END_ID, START_ID, ZERO, clip_tokenizer

IDS = torch.tensor([[START_ID, 320, 2368, END_ID] + [0] * 73, [START_ID] + list(range(300, 375)) + [END_ID]])


@pytest.fixture(scope="module")
def tower() -> OpenClipTower:
    return open_clip_tower(width=128, n_blocks=3, n_heads=2)


def named(tower: OpenClipTower) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in tower.state_dict().items()}


def test_the_open_clip_tower_gives_the_numbers_of_open_clip(tower: OpenClipTower) -> None:
    network = text_encoder_from_original(named(tower))
    with torch.no_grad():
        ours, theirs = network(IDS).last_hidden_state, tower(IDS)
    assert network.config.num_hidden_layers == 2
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 2e-5


def test_the_clip_tower_is_transformers_own() -> None:
    tensors = clip_tensors()
    network = text_encoder_from_original(tensors)
    assert (network.config.hidden_act, network.config.num_hidden_layers) == ("quick_gelu", 2)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[f"transformer.text_model.{name}"])
    assert network(IDS).last_hidden_state.shape == (2, LENGTH, 64)


@pytest.mark.parametrize(("n_blocks", "width", "n_names"), [(24, 1024, 372), (12, 768, 196)])
def test_every_tensor_of_the_full_towers_has_its_place(n_blocks: int, width: int, n_names: int) -> None:
    """ViT-H (24 blocks, one left out) and ViT-L (12 layers, all read)."""
    with torch.device("meta"):
        if width == 1024:
            state = {
                f"model.{k}": v
                for k, v in OpenClipTower(width=width, n_blocks=n_blocks, n_heads=16).state_dict().items()
            }
        else:
            from transformers import CLIPTextModel

            config = CLIPTextConfig(
                hidden_size=width, intermediate_size=4 * width, num_hidden_layers=n_blocks, num_attention_heads=12
            )
            state = {f"transformer.text_model.{k}": v for k, v in CLIPTextModel(config).state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    config = read_text_config(shapes)
    sources, unread = text_sources(shapes, n_layers=config["num_hidden_layers"])
    assert len(sources) == len(set(sources.values())) == n_names
    assert {source.name for source in sources.values()} | unread == set(shapes)
    assert (config["num_attention_heads"], config["intermediate_size"]) == (width // 64, 4 * width)
    network = text_encoder_from_original(state)
    assert set(network.state_dict()) == set(sources)


def test_towers_that_do_not_fit_are_refused_by_name(tower: OpenClipTower) -> None:
    tensors = named(tower)
    lacking = {name: tensor for name, tensor in tensors.items() if name != "model.ln_final.bias"}
    with pytest.raises(WeightsError, match=r"missing: 1 \(model\.ln_final\.bias\)"):
        text_encoder_from_original(lacking)
    with pytest.raises(WeightsError, match=r"unexpected: 1 \(model\.visual\.proj\)"):
        text_encoder_from_original({**tensors, "model.visual.proj": torch.zeros(3)})
    stacked = "model.transformer.resblocks.1.attn.in_proj_weight"
    with pytest.raises(WeightsError, match=r"resblocks\.1\.attn\.in_proj_weight \(256, 128\) instead of \(384, 128\)"):
        text_encoder_from_original({**tensors, stacked: torch.zeros(256, 128)})
    with pytest.raises(WeightsError, match="model.ln_final.bias of int64 instead of floating point"):
        text_encoder_from_original({**tensors, "model.ln_final.bias": torch.zeros(128, dtype=torch.long)})
    with pytest.raises(WeightsError, match="49408 tokens"):
        text_encoder_from_original({**tensors, "model.token_embedding.weight": torch.zeros(100, 128)})
    with pytest.raises(WeightsError, match=r"token_embedding\.weight' is missing"):
        text_encoder_from_original({"transformer.h.0.weight": torch.zeros(3)})


def test_the_tokenizer_knows_clips_numbers() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == N_TOKENS
    assert tokenizer("a photo of a cat")["input_ids"] == [START_ID, 320, 1125, 539, 320, 2368, END_ID]
    assert tokenizer("A  PHOTO\nof a cat")["input_ids"] == tokenizer("a photo of a cat")["input_ids"]
    assert tokenizer.convert_ids_to_tokens([0, 255, 256, 512, N_TOKENS - 3]) == ["!", "Ń", "!</w>", "in", "jekyll</w>"]


def test_prompts_are_filled_up_and_cut_as_the_original_does() -> None:
    network = text_encoder_from_original(text_tensors("sd21"))
    for pad, number in ((ZERO, 0), ("<|endoftext|>", END_ID)):
        ids: list[list[int]] = []
        encoder = TextEncoder(clip_tokenizer(pad=pad), network)
        handle = network.register_forward_pre_hook(lambda _, arguments, ids=ids: ids.extend(arguments[0].tolist()))
        encoder.encode(["wow! a cat", "", "cat " * 100])
        handle.remove()
        assert ids[0] == [START_ID, 2781, 256, 320, 2368, END_ID] + [number] * 71  # a typed "!" is no padding
        assert ids[1] == [START_ID, END_ID] + [number] * 75
        assert ids[2] == [START_ID] + [2368] * 75 + [END_ID]


def test_stacked_projections_are_taken_apart_into_storage_of_their_own(tower: OpenClipTower) -> None:
    network = text_encoder_from_original(named(tower))
    pointers = [p.untyped_storage().data_ptr() for n, p in network.named_parameters() if "self_attn" in n]
    assert len(set(pointers)) == len(pointers)
