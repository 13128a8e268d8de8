"""What the nodes ask of ComfyUI: its bar, its stop button, its device, its output folder.

The only file that knows ComfyUI's modules; without ComfyUI around them, nodes run all the same and save into a folder
`output`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

PREVIEW_PX = 512
"""The longest edge of a preview in a node."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def find_module(name: str) -> Any:
    """Return a module of ComfyUI, or None where there is none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def with_gradients(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a node compute gradients: ComfyUI runs all nodes in inference mode, where nothing can be fitted.

    Models are loaded and views drawn outside it too: tensors that are made inside can never be fitted to.
    """

    @functools.wraps(function)
    def free(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return free


def compute_device(name: str) -> torch.device | str | None:
    """Return where to compute: `name`, or for "auto" where ComfyUI does; None leaves it to viewfold."""
    if name != "auto":
        return name
    management = find_module("comfy.model_management")
    return None if management is None else management.get_torch_device()


class Watch:
    """Moves the node's bar and shows pictures in it; raises ComfyUI's own exception when its user pressed stop."""

    def __init__(self) -> None:
        self._utils, self._management = find_module("comfy.utils"), find_module("comfy.model_management")
        self._bar: Any = None
        self._at = (0, 1)

    def step(self, done: int, total: int) -> None:
        """Note that `done` of `total` steps are made."""
        self._move(done, total, None)

    def stage(self, _name: str, done: int, total: int) -> None:
        """Note a step of a stage: the bar begins anew with each."""
        self._move(done, total, None)

    def show(self, rgb: torch.Tensor) -> None:
        """Show pictures "v 3 h w" in a row, where the bar stands."""
        from viewfold.picture import to_pil

        row = to_pil(torch.cat(list(rgb), dim=-1).clamp(0, 1))
        self._move(*self._at, ("JPEG", row, PREVIEW_PX))

    def _move(self, done: int, total: int, picture: tuple[str, Any, int] | None) -> None:
        if self._management is not None:
            self._management.throw_exception_if_processing_interrupted()
        self._at = (done, total)
        if self._utils is None:
            return
        if self._bar is None:
            self._bar = self._utils.ProgressBar(total)
        self._bar.update_absolute(done, total, picture)


def next_file(prefix: str, suffix: str) -> tuple[Path, Path]:
    """Return ComfyUI's output folder and the next free name of a prefix in it, numbered as ComfyUI's own nodes do.

    Raises:
        InputError: the prefix leads out of the folder.
    """
    from viewfold import InputError

    paths = find_module("folder_paths")
    if paths is None:
        output = Path("output").resolve()
        wanted = output / prefix
        folder, name, number = wanted.parent, wanted.name, 1
    else:
        output = Path(paths.get_output_directory()).resolve()
        _check_inside(output, output / prefix, prefix)
        place, name, number, *_ = paths.get_save_image_path(prefix, str(output))
        folder = Path(place)
    _check_inside(output, folder, prefix)
    if not name.strip(" ."):
        raise InputError(f"`filename_prefix` must end in a name, such as 3d/mug; got {prefix!r}.")
    folder.mkdir(parents=True, exist_ok=True)
    while (path := folder / f"{name}_{number:05d}_{suffix}").exists():
        number += 1
    return output, path


def _check_inside(output: Path, place: Path, prefix: str) -> None:
    from viewfold import InputError

    if not place.resolve().is_relative_to(output):
        raise InputError(f"`filename_prefix` must stay inside ComfyUI's output folder; got {prefix!r}.")
