"""A model folder, read part by part: strictly, safetensors only, and no code but ours, diffusers' and transformers'.

Below the pipeline.  diffusers' own loader imports whatever module a folder names and fills missing tensors with random
numbers; a folder may come from a stranger, so this one does neither.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from viewfold import limits
from viewfold.errors import InputError, WeightsError
from viewfold.model.defaults import T2I, Defaults
from viewfold.model.unet import MultiViewUNet
from viewfold.store import read_json
from viewfold.weights.folder import INDEX, check_folder
from viewfold.weights.network import load_unet, read_network, reading
from viewfold.weights.tokenizer_file import check_read, check_tokenizer, check_vocabulary

MODEL_PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
"""What a model consists of: the names of the folders, in the order in which they are read."""

NETWORK_PARTS = ("vae", "text_encoder", "unet")
"""Those that hold weights."""

PORT_PIPELINE, PORT_UNET = "MVDreamPipeline", "MultiViewUNetModel"
"""Names in folders of the community port (ashawkey/mvdream_diffusers), whose UNet keeps the original's names."""

_MORE_THAN_TEXT = {"pixel_values", "input_features", "input_values", "decoder_input_ids", "labels"}
"""Inputs of what is no text encoder: readers of pictures or sound, translators, and networks with a task's head."""


def read_components(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, given: Collection[str] = ()
) -> dict[str, Any]:
    """Read the parts of a model from the folder that `save_pretrained` wrote.

    Args:
        folder: holds model_index.json and a folder for each of `MODEL_PARTS`.
        dtype: of the networks, whatever their files hold; with float16 the VAE is in float32 all the same.
        given: parts that the caller has already; they are left out.

    Raises:
        WeightsError: the folder, its index or a part is missing, damaged, or does not fit its configuration.
    """
    folder = Path(folder)
    index = _read_index(folder)
    missing = [part for part in MODEL_PARTS if part not in given and part not in index]
    if missing:
        raise WeightsError(f"`{folder / INDEX}` must name {', '.join(MODEL_PARTS)}; missing: {', '.join(missing)}.")
    parts = {part: _read_part(folder, part, index[part], dtype) for part in MODEL_PARTS if part not in given}
    if parts.keys() >= {"tokenizer", "text_encoder"}:
        check_vocabulary(parts["tokenizer"], parts["text_encoder"], folder=folder)
    return parts


def read_classes(folder: str | Path) -> dict[str, Any]:
    """Return the class of each network of a model, once its files have been looked through; no weights are read.

    Raises:
        WeightsError: the folder, its index or a part is missing or not what it should be.
    """
    folder = Path(folder)
    index = _read_index(folder)
    for part in NETWORK_PARTS:
        if not (folder / part).is_dir():
            raise WeightsError(f"`{folder}` must hold the folder {part}/; it does not. Is the download complete?")
        check_folder(folder / part)
    return {part: _find_class(folder, part, index.get(part)) for part in NETWORK_PARTS}


def read_defaults(folder: str | Path) -> Defaults:
    """Return what a model's index says to do where a call says nothing; the community port's is MVDream's.

    Raises:
        WeightsError: the index is missing or damaged, or a setting is out of range.
    """
    path = Path(folder) / INDEX
    index = _read_index(Path(folder))
    base = T2I if index.get("_class_name") == PORT_PIPELINE else Defaults()
    stated = {field.name: index[field.name] for field in fields(Defaults) if field.name in index}
    for name, value in stated.items():
        kind = type(getattr(base, name))
        fits = isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits:
            raise WeightsError(
                f"`{path}` must give settings that can be used: `{name}` is {value!r}, no {kind.__name__}."
            )
    try:
        return replace(base, **stated)
    except InputError as error:
        raise WeightsError(f"`{path}` must give settings that can be used: {error}") from error


def read_text(folder: str | Path) -> tuple[Any, Any]:
    """Read a BERT text encoder and its tokenizer from `folder`/text_encoder and `folder`/tokenizer, in float32.

    Raises:
        WeightsError: a part is missing or damaged.
    """
    index = {"text_encoder": ["transformers", "BertModel"], "tokenizer": ["transformers", "BertTokenizerFast"]}
    encoder, tokenizer = (_read_part(Path(folder), part, entry, torch.float32) for part, entry in index.items())
    check_vocabulary(tokenizer, encoder, folder=Path(folder))
    return encoder, tokenizer


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise WeightsError(f"`{folder}` must be a model's folder with {INDEX}; there is none. Check the path.")
    return read_json(path, error=WeightsError, max_bytes=limits.CONFIG_BYTES)


def _read_part(folder: Path, part: str, entry: object, dtype: torch.dtype) -> Any:
    if not (folder / part).is_dir():
        raise WeightsError(f"`{folder}` must hold the folder {part}/; it does not. Is the download complete?")
    check_folder(folder / part)
    kind = _find_class(folder, part, entry)
    with reading(kind, folder / part):
        match part:
            case "unet" if kind.__name__ in ("MultiViewUNet", "UNet2DConditionModel"):
                return load_unet(folder / part, dtype=dtype)
            case "tokenizer":
                check_tokenizer(folder / part)
                tokenizer = kind.from_pretrained(folder / part, local_files_only=True)
                check_read(tokenizer, folder / part)
                return tokenizer
            case "scheduler":
                return kind.from_pretrained(folder / part, local_files_only=True)
            case "vae" if dtype == torch.float16:  # its activations can exceed float16's range
                return read_network(kind, folder / part, torch.float32)
            case _:
                return read_network(kind, folder / part, dtype)


def _find_class(folder: Path, part: str, entry: object) -> Any:
    """Import a class by the names in the index, from where such a part may come and nowhere else."""
    match entry:
        case [str(library), str(name)]:
            pass
        case _:
            raise WeightsError(f"`{folder / INDEX}` must give {part} a library and a class; got {entry!r}.")
    if part == "unet" and name == PORT_UNET:
        return MultiViewUNet  # its module is never imported; `load_unet` knows the names of its tensors
    homes = {"tokenizer": ("transformers",), "text_encoder": ("transformers",)}.get(part, ("diffusers",))
    ours = library.startswith("viewfold.model.") and part in ("unet", "vae", "text_encoder")
    try:
        if not (library in homes or ours):
            raise ImportError(f"{library} is not one of {', '.join(homes)} or viewfold.model")
        kind = getattr(import_module(library), name)
        if not (isinstance(kind, type) and _is_part(kind, part)):
            raise TypeError(f"it is no {part}")
    except (ImportError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"`{folder / INDEX}` must name a {part} that this program knows; got {library}.{name}: {error}."
        ) from error
    return kind


def _is_part(kind: type, part: str) -> bool:
    """Return whether a class does the work of a part: the libraries hold hundreds of others."""
    match part:
        case "scheduler":
            from diffusers.schedulers.scheduling_utils import SchedulerMixin

            return issubclass(kind, SchedulerMixin)
        case "tokenizer":
            from transformers import PreTrainedTokenizerBase

            return issubclass(kind, PreTrainedTokenizerBase)
        case "text_encoder":
            from transformers import PreTrainedModel

            takes = inspect.signature(kind.forward).parameters if issubclass(kind, PreTrainedModel) else {}
            return "input_ids" in takes and not takes.keys() & _MORE_THAN_TEXT
        case "vae":
            return issubclass(kind, torch.nn.Module) and hasattr(kind, "encode") and hasattr(kind, "decode")
        case _:
            return issubclass(kind, torch.nn.Module)
