"""Add LoRA files to a model and remove them, by diffusers and peft; `weights/lora.py` reads them strictly first.

Beside the pipeline, which calls it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from viewfold.errors import InputError, MissingExtraError, WeightsError
from viewfold.model.weights_hash import hash_base, hash_tensors
from viewfold.weights.lora import CHANGED_PARTS, read_lora
from viewfold.weights.lora_file import lora_path, read_record


def put_on(pipeline: Any, path: str | Path, *, scale: float) -> None:
    """Change a pipeline's UNet and text encoder by a LoRA file; several add up.

    Args:
        path: a .safetensors file, or a folder with `lora_file.LORA_NAME`.

    Raises:
        WeightsError: the file is not .safetensors, damaged, holds names or shapes that do not fit the model, or says
            that it was made for another one; nothing of it is left on.
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

    path = lora_path(path)
    parts = read_lora(path, unet=pipeline.unet, text_encoder=pipeline.text_encoder, scale=scale)
    record = read_record(path)
    if record is not None and record["base"] != hash_base(pipeline):
        raise WeightsError(
            f"`lora` must be put on the model that it was made for, {record['base_name'][:60]} "
            f"({record['base'][:12]}); {path.name} of '{record['subject'][:60]}' was made for another one. Name that."
        )
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
        raise WeightsError(f"`lora` must be one that peft can put on; {path.name} is not: {reason}.") from error
    told = {} if record is None else {"subject": record["subject"]}
    pipeline.loras.append({"file": path.name, "scale": scale, "parts": sorted(parts), "sha256": digest, **told})


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


def _adapters(network: nn.Module | None) -> dict[str, Any]:
    return getattr(network, "peft_config", None) or {}
