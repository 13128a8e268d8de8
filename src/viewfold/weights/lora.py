"""LoRA files: low-rank changes W + scale alpha / rank B A of layers, read strictly; `pipeline/lora.py` adds them.

Every name and shape in a file is looked up in the model's own layers before any library sees it; the file's scale goes
into its tensors, so that what is loaded is what acts (and what is hashed).  diffusers' own loader (0.42 with peft 0.21)
was given fifteen files that do not fit: it loaded ten, five of them without a word (NaN, an infinite alpha, a whole
layer, names of no layer, a second text encoder) and two with factors that held no values at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.store import read_json
from viewfold.weights.checkpoint import read_checkpoint

CHANGED_PARTS = ("unet", "text_encoder")

TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Layers of a CLIP text encoder that diffusers changes; other text encoders take no LoRA."""

_NAME = re.compile(r"(.+)\.lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight")
_SPECIAL = ("_pattern", "use_dora", "use_rslora")
_LISTED = 8

PEFT_SETTINGS = "adapter_config.json"
"""Where peft keeps alpha, beside an adapter_model.safetensors."""

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

WHOLE, SDXL, FLUX = "whole weights", "a change of SDXL", "a change of a transformer (SD 3, Flux)"

_KINDS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_": "LoHa (LyCORIS)", "lokr_": "LoKr (LyCORIS)",
    "lora_mid": "LoCon with a core (Tucker)", "on_input": "(IA)^3", "ia3_": "(IA)^3", "oft_": "OFT", "boft_": "BOFT",
    "vera_": "VeRA", "vblora_": "VB-LoRA", "randlora_": "RandLoRA", "fourierft_": "FourierFT", "hra_": "HRA",
    "shira_": "SHiRA", "ln_tuning_": "LN tuning", "lora_E": "AdaLoRA", "lora_embedding_": "a LoRA of words",
    "diff": WHOLE, "diff_b": WHOLE, "w_norm": WHOLE, "b_norm": WHOLE,
    "lora_te1_": SDXL, "lora_te2_": SDXL, "text_encoder_2": SDXL, "lora_unet_input_": SDXL, "lora_unet_output_": SDXL,
    "lora_unet_middle_": SDXL, "transformer": FLUX, "lora_transformer_": FLUX, "lora_unet_double_": FLUX,
    "lora_unet_single_": FLUX,
}  # fmt: skip
"""Marks in names -> what other kind of change a file holds, which is no product of two factors of a layer here.

One that ends with a line is the beginning of a piece of a name, another a whole piece.
"""

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
    alphas, unfit = _read_alphas(path), dict[str, str]()
    for key, tensor in tensors.items():
        layer, role = _parse(key)
        own, module = layers.get(layer, ("", unet))
        if not own or role is None or role in pairs.get(own, {}) or (role == "alpha" and own in alphas):
            unfit[key] = ""
        elif role == "alpha":
            alphas[own] = _number(tensor)
            if not math.isfinite(alphas[own]):
                unfit[key] = "it must be one finite number"
        else:
            pairs.setdefault(own, {})[role] = _shaped(tensor, module)
    modules = dict(layers.values())
    unfit |= {layer: found for layer, pair in pairs.items() if (found := _misfit(pair, modules[layer]))}
    if unfit or not pairs:
        raise WeightsError(
            f"`lora` must hold LoRA weights of this model's layers; in {path.name} {_found(unfit, set(layers))}."
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for layer, pair in pairs.items():
        part = layer.split(".")[0]
        rank = len(pair["A"])
        factor = scale * alphas.get(layer, alphas.get(part, float(rank))) / rank
        changed = pair["B"] * factor
        if not bool(changed.isfinite().all()):
            raise WeightsError(
                f"`lora` must stay finite; in {path.name} {layer} overflows {changed.dtype}, times {factor:.3g}. "
                "Give a smaller scale, or save the file in float32."
            )
        into = parts.setdefault(part, {})
        into[f"{layer}.lora_A.weight"], into[f"{layer}.lora_B.weight"] = pair["A"], changed
    return parts


def _found(unfit: dict[str, str], known: set[str]) -> str:
    """Say what does not fit, and what kind of change it is, where its names tell."""
    if not unfit:
        return "there are none. Take a file of LoRA weights"
    told = [f"{name[:120]}: {reason}" if reason else name[:120] for name, reason in sorted(unfit.items())]
    listed = ", ".join(told[:_LISTED]) + (", ..." if len(told) > _LISTED else "")
    fault = f"{len(unfit)} names, shapes or values do not fit ({listed})"
    kinds = {kind for key in unfit for mark, kind in _KINDS.items() if _is_marked(key, mark)}
    kinds |= {WHOLE for key in unfit if key.rpartition(".")[0] in known and key.endswith((".weight", ".bias"))}
    kinds |= {"LoRA with biases" for key in unfit if key.endswith(("lora_B.bias", "lora_up.bias"))}
    if not kinds:
        return f"{fault}. Take a file that was trained on this model's network"
    named = " and ".join(sorted(kinds))
    return f"there is {named}, which is not read: merge it into a model, or train plain LoRA; {fault}"


def _number(tensor: Tensor) -> float:
    """Return a tensor's one number, NaN if there is none."""
    try:
        return float(tensor)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return math.nan


def _is_marked(key: str, mark: str) -> bool:
    """Return whether a piece of a tensor's name is a mark, or begins with one that ends openly."""
    pieces = key.split(".")
    if mark.endswith("_"):
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
    if str(tensor.dtype).startswith("torch.float8"):
        tensor = tensor.float()
    wanted = cast(Tensor, module.weight).ndim
    if wanted == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    is_point = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    return tensor[:, :, None, None] if is_point and tensor.ndim == 2 else tensor


def _misfit(pair: dict[str, Tensor], module: nn.Module) -> str:
    """Say why two factors make no change of a layer's weight, or nothing where they do."""
    weight: Any = module.weight
    if set(pair) != {"A", "B"}:
        return "one of its two factors is missing"
    down, up = pair["A"], pair["B"]
    shapes = f"shapes {tuple(down.shape)} and {tuple(up.shape)}, for a weight of {tuple(weight.shape)}"
    if down.ndim != weight.ndim or up.ndim != weight.ndim or not len(down):
        return shapes
    if len(down) != up.shape[1]:
        return f"ranks {len(down)} and {up.shape[1]} differ"
    rank, point = len(down), [1] * (weight.ndim - 2)
    if (tuple(down.shape), tuple(up.shape)) != ((rank, *weight.shape[1:]), (weight.shape[0], rank, *point)):
        return shapes
    if any(tensor.dtype not in _DTYPES for tensor in (down, up)):
        return f"numbers of {down.dtype} and {up.dtype}"
    return "" if bool(down.isfinite().all()) and bool(up.isfinite().all()) else "NaN or infinite numbers"


def _read_alphas(path: Path) -> dict[str, float]:
    """Return the alpha of "unet" and "text_encoder" that a file's header gives, or peft's settings beside the file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
        is_pefts = any(key.startswith("base_model.model.") for key in file.keys())  # noqa: SIM118
    beside = path.with_name(PEFT_SETTINGS)
    try:
        settings = json.loads(header)
        if is_pefts and beside.is_file():
            own = read_json(beside, error=WeightsError, max_bytes=limits.CONFIG_BYTES)
            settings |= {f"{part}.{key}": value for part in CHANGED_PARTS for key, value in own.items()}
        special = [key for key, value in settings.items() if value and key.endswith(_SPECIAL)]
        alphas = {p: float(settings[f"{p}.lora_alpha"]) for p in CHANGED_PARTS if f"{p}.lora_alpha" in settings}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(
            f"`lora` must have a header that can be read; that of {path.name} cannot. Save the file again."
        ) from error
    if special or not all(math.isfinite(alpha) for alpha in alphas.values()):
        raise WeightsError(
            f"`lora` must be plain LoRA with one finite alpha; {path.name} sets {', '.join(special) or 'another'}. "
            "Merge it into a model, or train plain LoRA."
        )
    return alphas
