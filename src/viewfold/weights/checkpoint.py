"""Read an untrusted file of tensors without running its code or allocating what it only claims to hold.

Sits below `weights`; it knows no network.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.formats import WEIGHTS
from viewfold.store import open_regular
from viewfold.weights.pickle_check import check_pickle


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or PyTorch file by name, mapped from the disk where the format allows it.

    A "state_dict" inside a training checkpoint is found; entries that are not tensors are left out.

    Raises:
        WeightsError: the file is missing, too large, truncated, of another kind, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"`path` must be a file of weights ({', '.join(WEIGHTS)}); got {path}, which is "
            f"{'a folder' if path.is_dir() else 'not a file'}."
        )
    if path.suffix not in WEIGHTS:
        raise WeightsError(f"`path` must end in {', '.join(WEIGHTS)}; got {path.name}.")
    size = path.stat().st_size
    if not 0 < size <= limits.CHECKPOINT_BYTES:
        raise WeightsError(
            f"`path` must hold 1 to {limits.CHECKPOINT_BYTES} bytes; {path.name} has {size}. Is the download complete?"
        )
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not tensors:
        raise WeightsError(f"`path` must hold tensors by name; {path.name} holds none.")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 2 * size:  # tied weights may count twice; a stride of zero would claim any amount
        raise WeightsError(f"`path` must hold what it claims; {path.name} claims {claimed} bytes in a file of {size}.")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"`path` must be a whole .safetensors file; {path.name} is damaged or cut short ({error}). "
            "Download it again."
        ) from error


def check_header(path: Path) -> None:
    """Refuse a .safetensors file whose table of contents is implausibly large, before it is parsed.

    Raises:
        WeightsError: it is, or the file is too short to hold one.
    """
    with open_regular(path) as file:
        start = file.read(8)
    claimed = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= claimed <= min(limits.CHECKPOINT_HEADER_BYTES, path.stat().st_size - 8):
        raise WeightsError(
            f"`path` must be a whole .safetensors file; {path.name} is damaged or cut short (it claims a header of "
            f"{claimed} bytes). Download it again."
        )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise WeightsError(f"`path` must be as torch.save writes it; {path.name} is compressed inside.")
                for entry in archive.namelist():
                    if entry.endswith(".pkl"):
                        check_pickle(archive.open(entry), name=path.name)
        else:
            with open_regular(path) as file:  # the former format: up to five pickles, then the storages
                for _ in range(5):
                    if file.peek(1):
                        check_pickle(file, name=path.name)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"`path` must hold plain tensors; {path.name} would run code when opened, or is damaged: {_cause(error)}. "
            "Do not open it otherwise unless you trust its author; ask for a .safetensors file."
        ) from error
    except WeightsError:
        raise
    except Exception as error:  # what a damaged archive or pickle raises is not bounded
        raise WeightsError(
            f"`path` must be a whole PyTorch file; {path.name} is damaged or cut short. Download it again."
        ) from error
    return _tensors(content)


def _cause(error: Exception) -> str:
    """Shorten torch's explanation to the line that names what it met (`GLOBAL os.system`, say)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "GLOBAL" in line or "Unsupported" in line:
            line = line[line.find("GLOBAL" if "GLOBAL" in line else "Unsupported") :]
            return line[:160].split(" was not")[0].rstrip(".")
    return lines[0][:160] if lines else type(error).__name__


def _tensors(content: Any) -> dict[str, Tensor]:
    for _ in range(3):  # a training checkpoint holds its weights one or two levels down
        inner = content.get("state_dict") if isinstance(content, Mapping) else None
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
