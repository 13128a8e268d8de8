"""LoRA files: low-rank changes W + scale alpha / rank B A of layers, read strictly; `pipeline/lora.py` adds them.

Every name and shape in a file is looked up in the model's own layers before any library sees it; the file's scale goes
into its tensors, so that what is loaded is what acts (and what is hashed).  diffusers' own loader (0.42 with peft 0.21)
was given fifteen files that do not fit: it loaded ten, five of them without a word (NaN, an infinite alpha, a whole
layer, names of no layer, a second text encoder) and two with factors that held no values at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.weights.checkpoint import read_checkpoint

CHANGED_PARTS = ("unet", "text_encoder")

TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Layers of a CLIP text encoder that diffusers changes; other text encoders take no LoRA."""

_NAME = re.compile(r"(.+)\.lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight")
_SPECIAL = ("_pattern", "use_dora", "use_rslora")
_LISTED = 8

_KINDS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w": "LoHa (LyCORIS)", "lokr_w": "LoKr (LyCORIS)",
    "lora_mid": "LoCon with a core (Tucker)", "on_input": "(IA)^3", "oft_": "OFT", "boft_": "BOFT",
    "diff": "whole weights", "diff_b": "whole weights", "w_norm": "whole weights", "b_norm": "whole weights",
    "lora_embedding_": "a LoRA of words", "vera_lambda": "VeRA",
    "lora_te2_": "a text encoder of SDXL", "text_encoder_2": "a text encoder of SDXL",
}  # fmt: skip
"""Marks in names -> what other kind of change a file holds, which is no product of two factors of a layer here."""

Layers = dict[str, tuple[str, nn.Module]]
"""From any name of a layer in a file to its own ("unet.mid_block...") and its module."""


def read_lora(
    path: str | Path, *, unet: nn.Module, text_encoder: nn.Module | None, scale: float = 1.0
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a file for "unet" and "text_encoder", by names "unet.LAYER.lora_A.weight" (or B).

    It reads the layouts of diffusers (old and new), peft and kohya.  The second factor of each pair is multiplied by
    `scale` and by the file's alpha / rank.

    Raises:
        WeightsError: the file is not .safetensors, damaged, or holds names or shapes that do not fit the model.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"`lora` must be a .safetensors file, which cannot run code; got {path.name}.")
    if not path.is_file():
        raise WeightsError(f"`lora` must be a file; there is no {path}. Check the path.")
    if path.stat().st_size > limits.LORA_BYTES:
        raise WeightsError(
            f"`lora` must have at most {limits.LORA_BYTES} bytes; {path.name} has {path.stat().st_size}."
        )
    try:
        tensors = read_checkpoint(path)
    except WeightsError as error:
        raise WeightsError(str(error).replace("`path`", "`lora`")) from error
    layers = _layers(unet, "unet") | ({} if text_encoder is None else _layers(text_encoder, "text_encoder"))
    pairs: dict[str, dict[str, Tensor]] = {}
    alphas, unfit = _read_alphas(path), []
    for key, tensor in tensors.items():
        layer, role = _parse(key)
        if layer not in layers or role is None or role in pairs.get(layers[layer][0], {}):
            unfit.append(key)
        elif role == "alpha":
            if tensor.numel() == 1 and tensor.isfinite():
                alphas[layers[layer][0]] = float(tensor)
            else:
                unfit.append(key)
        else:
            pairs.setdefault(layers[layer][0], {})[role] = _shaped(tensor, layers[layer][1])
    modules = dict(layers.values())
    unfit += [layer for layer, pair in pairs.items() if not _fits(pair, modules[layer])]
    if unfit or not pairs:
        listed = ", ".join(name[:120] for name in sorted(unfit)[:_LISTED]) + (", ..." if len(unfit) > _LISTED else "")
        found = f"{len(unfit)} names, shapes or values do not fit ({listed})" if unfit else "there are none"
        kinds = sorted({kind for key in unfit for mark, kind in _KINDS.items() if _is_marked(key, mark)})
        if kinds:
            advice = "merge it into a model, or train plain LoRA"
            found = f"there is {' and '.join(kinds)}, which is not read: {advice}; {found}"
        raise WeightsError(f"`lora` must hold LoRA weights of this model's layers; in {path.name} {found}.")
    parts: dict[str, dict[str, Tensor]] = {}
    for layer, pair in pairs.items():
        part = layer.split(".")[0]
        rank = len(pair["A"])
        factor = scale * alphas.get(layer, alphas.get(part, float(rank))) / rank
        into = parts.setdefault(part, {})
        into[f"{layer}.lora_A.weight"], into[f"{layer}.lora_B.weight"] = pair["A"], pair["B"] * factor
    return parts


def _is_marked(key: str, mark: str) -> bool:
    """Return whether a piece of a tensor's name is a mark, or begins with one that ends openly."""
    pieces = key.split(".")
    if mark.endswith(("_", "w")):
        return any(piece.startswith(mark) for piece in pieces)
    return mark in pieces


def _layers(network: nn.Module, part: str) -> Layers:
    """Return the layers that a LoRA may change, by each name that a file may give them."""
    found: Layers = {}
    for name, module in network.named_modules():
        module = getattr(module, "base_layer", module)  # where another LoRA is on already
        inner = any(piece == "base_layer" or piece.startswith("lora_") for piece in name.split("."))
        if inner or not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if part == "text_encoder" and name.split(".")[-1] not in TEXT_LAYERS:
            continue
        own = (f"{part}.{name}", module)
        for alias in _aliases(name, part):
            found[alias] = own
    return found


def _aliases(name: str, part: str) -> Iterator[str]:
    yield f"{part}.{name}"
    kohya = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
    yield kohya + name.replace(".", "_")
    if part == "unet":
        yield name
        yield f"base_model.model.{name}"  # peft's own files
    elif not name.startswith("text_model."):  # newer versions of transformers leave this level out
        yield f"{part}.text_model.{name}"
        yield kohya + f"text_model_{name}".replace(".", "_")


def _parse(key: str) -> tuple[str, str | None]:
    """Return the name of a layer as the file has it, and what the tensor is to it: A, B, alpha or unknown."""
    if key.endswith(".alpha"):
        return key.removesuffix(".alpha"), "alpha"
    plain = key.replace(".processor.", ".").replace("_lora.", ".lora.").replace(".to_out.lora.", ".to_out.0.lora.")
    match = _NAME.fullmatch(plain)
    return (match[1], {"down": "A", "up": "B"}.get(match[2], match[2])) if match else (key, None)


def _shaped(tensor: Tensor, module: nn.Module) -> Tensor:
    """Return a factor as its layer has it: kohya's files for SD 2.x hold 1 x 1 convolutions for linear layers.

    Eight-bit floats, which PyTorch does not compute in, become float32.
    """
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()
    wanted = cast(Tensor, module.weight).ndim
    if wanted == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    is_point = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    return tensor[:, :, None, None] if is_point and tensor.ndim == 2 else tensor


def _fits(pair: dict[str, Tensor], module: nn.Module) -> bool:
    """Return whether both factors are there, finite, and their product has the shape of the layer's weight."""
    weight: Any = module.weight
    if set(pair) != {"A", "B"} or pair["A"].ndim != weight.ndim or pair["B"].ndim != weight.ndim:
        return False
    rank = len(pair["A"])
    shapes = (rank, *weight.shape[1:]), (weight.shape[0], rank, *[1] * (weight.ndim - 2))
    right = (tuple(pair["A"].shape), tuple(pair["B"].shape)) == shapes
    return right and rank > 0 and all(t.is_floating_point() and bool(t.isfinite().all()) for t in pair.values())


def _read_alphas(path: Path) -> dict[str, float]:
    """Return the alpha that a file's header gives for "unet" and "text_encoder", as diffusers writes it."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        settings = json.loads(header)
        special = [key for key, value in settings.items() if value and key.endswith(_SPECIAL)]
        alphas = {p: float(settings[f"{p}.lora_alpha"]) for p in CHANGED_PARTS if f"{p}.lora_alpha" in settings}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"`lora` must have a header that can be read; that of {path.name} cannot.") from error
    if special or not all(torch.isfinite(torch.tensor(alpha)) for alpha in alphas.values()):
        raise WeightsError(
            f"`lora` must be plain LoRA with one finite alpha; {path.name} sets {', '.join(special) or 'another'}."
        )
    return alphas
