"""Check the untrusted folder of one network before a library reads it.

Below `weights` and the pipeline.  diffusers and transformers build a network from what config.json says and fill with
random numbers what the files lack, so that a line of JSON can ask for a terabyte; they follow names out of the folder,
and wait for ever on a file that is a pipe.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.store import read_json
from viewfold.weights.checkpoint import check_header

INDEX = "model_index.json"
"""What a whole model is made of."""

FOREIGN = ("auto_map", "backbone", "backbone_config", "quantization_config", "use_pretrained_backbone")
"""What makes the libraries fetch or import something else."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data")

_CONFIGS = ("config.json", "scheduler_config.json")
_UNUSED_SHARE, _UNUSED = 1.5, 2**20
"""A network may be so much larger than its files, by share and number: parts that are never used are left out."""


def check_folder(folder: Path) -> None:
    """Look through a folder of one part of a model: what its files are, how large, and what their settings ask for.

    Links to files are followed, because download caches are made of them.

    Raises:
        WeightsError: a file is too large, no file at all, or asks for what no model needs.
    """
    if not folder.is_dir():
        raise WeightsError(f"`{folder}` must be a folder with a config.json; there is none. Check the path.")
    entries = sorted(folder.iterdir())
    if len(entries) > limits.FOLDER_FILES:
        raise WeightsError(f"`{folder}` must hold at most {limits.FOLDER_FILES} files; it holds {len(entries)}.")
    for path in entries:
        try:
            status = path.stat()
        except OSError as error:
            raise WeightsError(f"`{path}` must be a file; it cannot be read: {error.strerror}.") from error
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"`{path}` must be a file; it is a pipe, a socket or a device.")
        if path.name == "adapter_config.json":
            raise WeightsError(f"`{folder}` must hold a network; {path.name} makes it an adapter of another one.")
        limit = limits.CONFIG_BYTES if path.name in _CONFIGS else limits.FOLDER_TEXT_BYTES
        if path.suffix not in WEIGHTS and status.st_size > limit:
            raise WeightsError(f"`{path}` must be at most {limit} bytes; it has {status.st_size}.")
        if path.suffix == ".safetensors":
            check_header(path)
        elif path.name.endswith(".safetensors.index.json"):
            _check_shards(path)
        elif path.name in _CONFIGS:
            _check_config(path)
        elif path.suffix == ".json":
            _read(path)


def check_size(kind: Any, folder: Path) -> None:
    """Refuse a configuration that describes a much larger network than the files of weights hold.

    The network is built without storage.  A `kind` of neither library is left to its own loader.

    Raises:
        WeightsError: it does, or the configuration describes no network.
    """
    shapes = [shape for path in folder.glob("*.safetensors") for shape in _shapes(path)]
    if (repeats := _repeats(_read(folder / "config.json"))) > len(shapes) + limits.CONFIG_LAYERS:
        raise WeightsError(f"`{folder}` must hold the weights of {repeats} layers; it holds {len(shapes)} tensors.")
    if not hasattr(kind, "load_config") and not hasattr(kind, "config_class"):
        return
    with torch.device("meta"):
        network = build(kind, folder)
    described = sum(parameter.numel() for parameter in network.parameters())
    held = sum(shape.numel() for shape in shapes)
    if described > held * _UNUSED_SHARE + _UNUSED:
        raise WeightsError(
            f"`{folder}` must hold the weights that its config.json describes: {described} numbers; it holds {held}."
        )


def build(kind: Any, folder: Path) -> Any:
    """Return the network of a class of diffusers or transformers that config.json describes, on torch's device now."""
    if hasattr(kind, "load_config"):
        return kind.from_config(kind.load_config(folder, local_files_only=True))
    return kind(kind.config_class.from_pretrained(folder, local_files_only=True))


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, error=WeightsError, max_bytes=limits.FOLDER_TEXT_BYTES)


def _repeats(config: dict[str, Any]) -> int:
    """Return how many layers of attention a UNet has by its configuration; building them takes time, if no memory."""
    repeats = 1
    for name in ("layers_per_block", "transformer_layers_per_block"):
        value = config.get(name, 1)
        repeats *= max([n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int)], default=1)
    levels = config.get("block_out_channels")
    return repeats * len(levels) if isinstance(levels, list) else repeats


def _shapes(path: Path) -> list[torch.Size]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return [torch.Size(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"`{path}` must be a whole .safetensors file; it is damaged or cut short ({str(error)[:160]}). "
            "Download it again."
        ) from error


def _check_shards(path: Path) -> None:
    shards = _read(path).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    beside = {file.name for file in path.parent.iterdir() if file.is_file()}
    if not names or not all(isinstance(name, str) and name in beside for name in names):
        raise WeightsError(f"`{path}` must map tensors to files that lie beside it; it does not.")


def _check_config(path: Path) -> None:
    for key, value in _walk(_read(path), path):
        limit = limits.CONFIG_LAYERS if "layer" in key else limits.CONFIG_NUMBER
        limit = limits.BLOCK_LAYERS if key.endswith("layers_per_block") else limit
        if key in FOREIGN and value is not None and value is not False:
            raise WeightsError(f"`{path}` must describe a network by itself; it has `{key}`, which names another one.")
        if isinstance(value, int | float) and not -limits.CONFIG_NUMBER <= value <= limit:
            raise WeightsError(f"`{path}` must hold sizes of at most {limit}; `{key}` is {value!r:.40}.")


def _walk(value: Any, path: Path, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every value with the name that it has, or that the list has which it is in."""
    yield key, value
    if not isinstance(value, dict | list):
        return
    longest = limits.SCHEDULE_STEPS if path.name == "scheduler_config.json" else limits.CONFIG_LIST
    if depth > limits.CONFIG_DEPTH or (isinstance(value, list) and len(value) > longest):
        raise WeightsError(
            f"`{path}` must hold lists of at most {longest}, {limits.CONFIG_DEPTH} deep; `{key}` is larger."
        )
    for name, item in value.items() if isinstance(value, dict) else [(key, item) for item in value]:
        yield from _walk(item, path, name, depth + 1)
