"""LoRA files: small changes to a model's layers, read strictly and put on by diffusers and peft.

Beside the pipeline, which calls it.  Every name and shape in a file is looked up in the model's own layers before any
library sees it; the file's scale goes into its tensors, so that what is loaded is what acts (and what is hashed).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewfold.errors import InputError, MissingExtraError, WeightsError
from viewfold.model.weights_hash import hash_tensors
from viewfold.weights.checkpoint import read_checkpoint

MAX_BYTES = 4 * 2**30
"""Larger files are refused; LoRA files of Stable Diffusion have 1 to 300 MB."""

CHANGED_PARTS = ("unet", "text_encoder")

TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Layers of a CLIP text encoder that diffusers changes; other text encoders take no LoRA."""

_NAME = re.compile(r"(.+)\.lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight")
_SPECIAL = ("_pattern", "use_dora", "use_rslora")
_LISTED = 8

Layers = dict[str, tuple[str, nn.Module]]
"""From any name of a layer in a file to its own ("unet.mid_block...") and its module."""


def put_on(pipeline: Any, path: str | Path, *, scale: float) -> None:
    """Change a pipeline's UNet and text encoder by a LoRA file; several add up.

    Raises:
        WeightsError: the file is not .safetensors, damaged, or holds names or shapes that do not fit the model; nothing
            of it is left on.
        InputError: `scale` is not finite.
        MissingExtraError: peft is not installed.
    """
    if not -float("inf") < scale < float("inf"):
        raise InputError(f"`scale` must be a finite number; got {scale}.")
    try:
        import peft  # noqa: F401  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtraError("LoRA needs peft: pip install 'viewfold[lora]'") from error
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    parts = read_lora(path, unet=pipeline.unet, text_encoder=pipeline.text_encoder, scale=scale)
    digest = hash_tensors(pair for part in CHANGED_PARTS for pair in sorted(parts.get(part, {}).items())).hexdigest()
    name = f"lora_{len(pipeline.loras)}"
    shared: dict[str, Any] = {"network_alphas": None, "adapter_name": name, "_pipeline": pipeline}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft warns of a second file on one network; that is meant
            if "unet" in parts:
                Loader.load_lora_into_unet(parts["unet"], unet=pipeline.unet, low_cpu_mem_usage=True, **shared)
                pipeline.unet.set_adapters([*_adapters(pipeline.unet)])
            if "text_encoder" in parts:
                Loader.load_lora_into_text_encoder(parts["text_encoder"], text_encoder=pipeline.text_encoder, **shared)
                pipeline.text_encoder.set_adapter([*_adapters(pipeline.text_encoder)])
    except Exception as error:  # what the libraries make of a strange combination is not bounded
        if name in _adapters(pipeline.unet):
            pipeline.unet.delete_adapters(name)
        if name in _adapters(pipeline.text_encoder):
            pipeline.text_encoder.delete_adapter(name)
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise WeightsError(f"`lora` must be one that peft can put on; {Path(path).name} is not: {reason}.") from error
    pipeline.loras.append({"file": Path(path).name, "scale": scale, "parts": sorted(parts), "sha256": digest})


def take_off(pipeline: Any) -> None:
    """Bring a pipeline's networks back to what they were before any `put_on`.

    Raises:
        InputError: a file changed the text network, which was released: what it read cannot be read again.
    """
    if pipeline.text_encoder is None and any("text_encoder" in lora["parts"] for lora in pipeline.loras):
        raise InputError("`text_encoder` must be there to be changed back; it was released. Load the model again.")
    if _adapters(pipeline.unet):
        pipeline.unet.unload_lora()
    if (text := pipeline.text_encoder) is not None and _adapters(text):
        from diffusers.utils import recurse_remove_peft_layers

        recurse_remove_peft_layers(text)  # `delete_adapter` would leave the layers wrapped
        del text.peft_config
        text._hf_peft_config_loaded = False
    pipeline.loras.clear()


def read_lora(
    path: str | Path, *, unet: nn.Module, text_encoder: nn.Module | None, scale: float = 1.0
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a file for "unet" and "text_encoder", by names "unet.LAYER.lora_A.weight" (or B).

    It reads the layouts of diffusers (old and new), peft and kohya.  The second factor of each pair is multiplied by
    `scale` and by the file's alpha / rank.

    Raises:
        WeightsError: see `put_on`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"`lora` must be a .safetensors file, which cannot run code; got {path.name}.")
    if not path.is_file():
        raise WeightsError(f"`lora` must be a file; there is no {path}. Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"`lora` must have at most {MAX_BYTES} bytes; {path.name} has {path.stat().st_size}.")
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
        elif role == "alpha" and tensor.numel() == 1:
            alphas[layers[layer][0]] = float(tensor)
        else:
            pairs.setdefault(layers[layer][0], {})[role] = tensor
    modules = dict(layers.values())
    unfit += [layer for layer, pair in pairs.items() if not _fits(pair, modules[layer])]
    if unfit or not pairs:
        listed = ", ".join(name[:120] for name in sorted(unfit)[:_LISTED]) + (", ..." if len(unfit) > _LISTED else "")
        found = f"{len(unfit)} names or shapes do not fit ({listed})" if unfit else "there are none"
        raise WeightsError(f"`lora` must hold LoRA weights of this model's layers; in {path.name} {found}.")
    parts: dict[str, dict[str, Tensor]] = {}
    for layer, pair in pairs.items():
        part = layer.split(".")[0]
        rank = len(pair["A"])
        factor = scale * alphas.get(layer, alphas.get(part, float(rank))) / rank
        into = parts.setdefault(part, {})
        into[f"{layer}.lora_A.weight"], into[f"{layer}.lora_B.weight"] = pair["A"], pair["B"] * factor
    return parts


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


def _adapters(network: nn.Module | None) -> dict[str, Any]:
    return getattr(network, "peft_config", None) or {}
