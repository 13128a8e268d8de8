"""One number for the weights of a model: what it counts, what it does not, and when it is counted again."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from viewfold.errors import InputError, PromptError
from viewfold.model import weights_hash as module
from viewfold.model.condition import Condition
from viewfold.model.weights_hash import Stamp, freeze_hash, frozen_networks, hash_tensors, weights_hash
from viewfold.pipeline.prompt_cache import PromptCache


def model(seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {name: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for name in ("text_encoder", "unet", "vae")}
    return SimpleNamespace(**parts)


def by_hand(networks: list[nn.Module]) -> str:
    sha = hashlib.sha256()
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.float().numpy().tobytes())
    return sha.hexdigest()


def test_the_number_by_hand() -> None:
    made = model()
    assert weights_hash(made) == by_hand([made.text_encoder, made.unet, made.vae])
    assert hash_tensors([("a", torch.ones(2))]).hexdigest() == hashlib.sha256(b"a (2,)" + b"\0\0\x80?" * 2).hexdigest()
    first = hash_tensors([("a", torch.ones(2))])
    both = hash_tensors([("a", torch.ones(2)), ("b", torch.zeros(1, 1))]).hexdigest()
    assert hash_tensors([("b", torch.zeros(1, 1))], first).hexdigest() == both


def test_names_shapes_values_and_the_place_of_a_network_count_and_its_type_does_not() -> None:
    one = torch.tensor([[1.0, 2.0]])
    same = hash_tensors([("a", one)]).hexdigest()
    for other in (("b", one), ("a", one.T), ("a", one.flatten()), ("a", one + 1)):
        assert hash_tensors([other]).hexdigest() != same
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        assert hash_tensors([("a", one.to(kind))]).hexdigest() == same
    assert hash_tensors([("a", one.expand(1, 2).mT.contiguous().mT)]).hexdigest() == same
    made, swapped = model(), model()
    swapped.unet, swapped.vae = made.vae, made.unet
    assert weights_hash(swapped) != weights_hash(made)


def test_buffers_count_and_every_network_does() -> None:
    before = weights_hash(model())
    for part in ("text_encoder", "unet", "vae"):
        made = model()
        getattr(made, part)[1].running_mean += 1
        assert weights_hash(made) != before


def test_it_is_counted_again_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made, counted = model(), []
    real = module._hash
    monkeypatch.setattr(module, "_hash", lambda *given: (counted.append(1), real(*given))[1])
    first = weights_hash(made)
    assert weights_hash(made) == first and len(counted) == 1
    with torch.no_grad():
        made.vae[0].bias += 1
    second = weights_hash(made)
    assert second != first and len(counted) == 2
    made.unet[0].weight = nn.Parameter(made.unet[0].weight.detach().clone())  # replaced by its equal
    assert weights_hash(made) == second and len(counted) == 3


@pytest.mark.parametrize("last", ["text_encoder", "unet", "vae"])
def test_a_frozen_network_counts_as_it_was(last: str) -> None:
    made = model()
    before = weights_hash(made)
    freeze_hash(made, last)
    frozen = ["text_encoder", "unet", "vae"][: ["text_encoder", "unet", "vae"].index(last) + 1]
    assert frozen_networks(made) == frozen
    for part in frozen:
        setattr(made, part, None)
    assert weights_hash(made) == before
    for part in set(("text_encoder", "unet", "vae")) - set(frozen):
        with torch.no_grad():
            getattr(made, part)[0].bias += 1
        changed = weights_hash(made)
        assert changed != before
        before = changed


def test_all_networks_are_frozen_unless_a_last_one_is_named() -> None:
    made = model()
    freeze_hash(made)
    assert frozen_networks(made) == ["text_encoder", "unet", "vae"]


def test_lora_files_count_by_their_own_number_in_their_order() -> None:
    made = model()
    plain = weights_hash(made)
    files = [{"sha256": "ab" * 32}, {"sha256": "cd" * 32}]
    made.loras = []
    assert weights_hash(made) == plain
    made.loras = files
    expected = hashlib.sha256(bytes.fromhex(plain) + bytes.fromhex("ab" * 32) + bytes.fromhex("cd" * 32)).hexdigest()
    assert weights_hash(made) == expected
    made.loras = files[::-1]
    assert weights_hash(made) not in (expected, plain)


def test_layers_with_lora_on_count_under_their_own_names() -> None:
    class Wrapped(nn.Module):
        def __init__(self, layer: nn.Module, *, added: str) -> None:
            super().__init__()
            self.base_layer = layer
            self.lora_A = nn.ModuleDict({added: nn.Linear(3, 1, bias=False)})

    made = model()
    plain = weights_hash(made)
    made.unet[0] = Wrapped(made.unet[0], added="lora_0")
    assert weights_hash(made) == plain, "those that are in the list are hashed there"
    made.unet[0] = Wrapped(made.unet[0].base_layer, added="mine")
    assert weights_hash(made) != plain


def test_a_stamp_notices_changes_in_place_replacement_conversion_and_number() -> None:
    tensors = [torch.ones(2), torch.zeros(3)]
    stamp = Stamp(tensors)
    assert stamp == Stamp(tensors) and stamp != Stamp(tensors[:1]) and stamp != Stamp(tensors[::-1]) and stamp != 3
    tensors[1].add_(1)
    assert stamp != Stamp(tensors)
    again = Stamp(tensors)
    tensors[0] = tensors[0].clone()
    assert again != Stamp(tensors)
    lost = Stamp([torch.ones(1)])
    assert lost != lost, "a tensor that is gone is no longer what it was"


# Prompts that were read -----------------------------------------------------------------------------------------------


class Encoder:
    """Reads a prompt as its length, and notes what it was asked."""

    def __init__(self) -> None:
        self.tokenizer, self.network = object(), nn.Linear(1, 1)
        self.network.config = "configuration"  # type: ignore[assignment]
        self.asked: list[list[str]] = []

    def encode(self, prompts: list[str]) -> Condition:
        self.asked.append(list(prompts))
        return Condition({"length": torch.tensor([float(len(prompt)) for prompt in prompts])})


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    from viewfold.model.text import TextEncoder

    made = Encoder()
    real = TextEncoder(tokenizer=made.tokenizer, network=made.network)  # type: ignore[arg-type]
    monkeypatch.setattr(TextEncoder, "encode", lambda self, prompts: made.encode(prompts))
    return SimpleNamespace(real=real, asked=made.asked, network=made.network)


def test_only_new_prompts_are_read_and_all_come_in_the_order_asked(encoder: Any) -> None:
    reader = PromptCache()
    assert reader.read(encoder.real, ["aa", "b", "aa"]).part("length").tolist() == [2, 1, 2]
    assert reader.read(encoder.real, ["ccc", "b"]).part("length").tolist() == [3, 1]
    assert encoder.asked == [["aa", "b"], ["ccc"]]
    with torch.no_grad():
        encoder.network.weight.add_(1)
    reader.read(encoder.real, ["b"])
    assert encoder.asked[-1] == ["b"], "another weight reads anew"


def test_the_prompts_used_last_are_kept(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewfold.pipeline.prompt_cache.MAX_PROMPTS", 2)
    reader = PromptCache()
    reader.read(encoder.real, ["a", "bb"])
    reader.read(encoder.real, ["a"])  # now the last used
    reader.read(encoder.real, ["ccc"])
    encoder.asked.clear()
    reader.read(encoder.real, ["a", "ccc"])
    assert encoder.asked == []
    reader.read(encoder.real, ["bb"])
    assert encoder.asked == [["bb"]]


def test_after_its_release_only_what_was_read_is_known(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PromptCache()
    reader.release(encoder.real, ["a", "bb"])
    assert reader.network(None).config == "configuration"
    with torch.no_grad():
        encoder.network.weight.add_(1)  # nobody looks at it any more
    assert reader.read(encoder.real, ["bb", "a"]).part("length").tolist() == [2, 1]
    assert encoder.asked == [["a", "bb"]]
    with pytest.raises(PromptError, match="got 'ccc'"):
        reader.read(encoder.real, ["a", "ccc"])
    monkeypatch.setattr("viewfold.pipeline.prompt_cache.MAX_PROMPTS", 2)
    PromptCache().release(encoder.real, ["a", "bb", "a"])
    with pytest.raises(InputError, match="at most 2, which are kept; got 3"):
        PromptCache().release(encoder.real, ["a", "bb", "ccc"])
