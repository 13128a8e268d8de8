"""One network from its folder: every tensor of its files fits its configuration, in both directions.

Above `folder`, which looks the folder through first; below `components`, which reads whole models.  The libraries'
loaders fill what a file lacks with random numbers and log it; here it is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from viewfold import limits
from viewfold.errors import InputError, ViewfoldError, WeightsError, is_panic
from viewfold.formats import WEIGHTS
from viewfold.store import read_json
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.folder import check_folder, check_size
from viewfold.weights.original import listed, unet_from_original
from viewfold.weights.verbosity import quiet

if TYPE_CHECKING:
    from viewfold.model.unet import MultiViewUNet

_NEVER_USED = ("pooler.", "text_projection.")
"""Parts of text encoders that no token passes through; they may be absent."""


def load_unet(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> MultiViewUNet:
    """Load the network of a folder (its `unet/`, or the folder itself), strictly, ready to evaluate.

    The folder may be ours, one of a plain 2D Stable Diffusion network (which then takes no cameras), or the community
    port's, which keeps the original's names.

    Raises:
        WeightsError: no such folder, an unreasonable configuration, or tensors that are missing, unexpected or damaged.
    """
    from viewfold.model.unet import MultiViewUNet

    folder = Path(folder)
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    check_folder(folder)
    config = read_json(folder / "config.json", error=WeightsError, max_bytes=limits.CONFIG_BYTES)
    with reading(MultiViewUNet, folder):
        if "model_channels" in config:
            return _load_original(folder, config, dtype=dtype)
        camera = {name: config.get(name) for name in ("class_embed_type", "projection_class_embeddings_input_dim")}
        return read_network(MultiViewUNet, folder, dtype, **camera)


@contextmanager
def reading(kind: type, folder: Path) -> Iterator[None]:
    """Turn whatever the libraries raise over a folder into a `WeightsError`: of a damaged file that is not bounded."""
    try:
        with quiet():
            yield
    except ViewfoldError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = " ".join(str(error).split(". ")[0].split())[:300].rstrip(".") or type(error).__name__
        raise WeightsError(f"`{folder}` cannot be read as {kind.__name__}: {reason}.") from error


def read_network(kind: Any, folder: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """Read a network of a class of diffusers or transformers from a folder that was looked through.

    Args:
        kind: the class.
        folder: holds config.json and .safetensors files.
        dtype: of the network, whatever its files hold.
        settings: these instead of what config.json says.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape; `reading` tells what else goes wrong.
    """
    settings |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    settings["torch_dtype" if hasattr(kind, "load_config") else "dtype"] = dtype  # diffusers' word, transformers'
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        settings["add_pooling_layer"] = False  # or the library invents one with random numbers
    check_size(kind, folder)
    network, info = kind.from_pretrained(folder, **settings)
    wrong = {
        problem: sorted(str(key) for key in info.get(f"{problem}_keys", ()) if not str(key).startswith(_NEVER_USED))
        for problem in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        found = "; ".join(f"{problem} {listed(keys)}" for problem, keys in wrong.items() if keys)
        raise WeightsError(f"`{folder}` must hold the weights of the {kind.__name__} that it describes; {found}.")
    return network.eval()


def _load_original(folder: Path, config: Mapping[str, Any], *, dtype: torch.dtype) -> MultiViewUNet:
    """Load a network whose folder keeps the original's names (ashawkey/mvdream_diffusers, `mv_unet.py`)."""
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    if len(files) != 1:
        raise WeightsError(f"`{folder}` must hold one file of weights in the original's names; it has {len(files)}.")
    heads = {"heads": config.get("num_heads"), "head_channels": config.get("num_head_channels")}
    told = {name: n for name, n in heads.items() if isinstance(n, int) and not isinstance(n, bool) and n != -1}
    try:
        unet: Any = unet_from_original(read_checkpoint(files[0]), **told)
        return unet.to(dtype)
    except InputError as error:
        raise WeightsError(f"`{folder / 'config.json'}` must give the heads of its network; {error}") from error
