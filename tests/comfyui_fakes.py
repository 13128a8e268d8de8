"""A ComfyUI in miniature: its loader, its executor and the three modules that node packs import from it.

Read in Comfy-Org/ComfyUI: `load_custom_node` of nodes.py, `validate_inputs` and `execute_async` of execution.py,
`get_save_image_path` of folder_paths.py, `ProgressBar` of comfy/utils.py.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


class InterruptProcessingException(Exception):
    """What ComfyUI raises in a node when its user pressed stop."""


@dataclass
class Comfy:
    """What a ComfyUI knows; `install` puts its modules where imports find them."""

    output: Path
    device: str = "cpu"
    stop_after: int = -1
    """Looks at the stop button after which it is pressed."""
    moves: list[tuple[int, int, Any]] = field(default_factory=list)
    looks: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> Comfy:
        """Offer comfy.utils, comfy.model_management and folder_paths."""
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                comfy.moves.append((value, total or self.total, preview))

        modules = {
            "comfy": {},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.model_management": {
                "get_torch_device": lambda: torch.device(self.device),
                "throw_exception_if_processing_interrupted": self._look,
            },
            "folder_paths": {
                "get_output_directory": lambda: str(self.output),
                "get_save_image_path": self._name,
            },
        }
        for name, content in modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        return self

    def _look(self) -> None:
        self.looks += 1
        if 0 <= self.stop_after < self.looks:
            raise InterruptProcessingException

    def _name(self, prefix: str, output: str) -> tuple[str, str, int, str, str]:
        subfolder, filename = os.path.split(os.path.normpath(prefix))
        folder = Path(output, subfolder)
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name[len(filename) + 1 :].split("_")[0]) for p in folder.glob(f"{filename}_[0-9]*_.*")]
        return str(folder), filename, max(taken, default=0) + 1, subfolder, prefix


def load_pack(folder: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """Load a node pack as ComfyUI does, under a name that is its path with the dots replaced."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def inputs_of(node: Any) -> dict[str, Any]:
    """Return the inputs of a node class, required ones first."""
    told = node.INPUT_TYPES()
    return {**told["required"], **told.get("optional", {})}


def is_widget(kind: Any) -> bool:
    """Tell whether an input is typed into the node, not plugged into it."""
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN")


def to_prompt(workflow: dict[str, Any], nodes: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return what the front end sends for a drawn workflow: of each node its class and its inputs by name."""
    sources = {link: (origin, slot) for link, origin, slot, *_ in workflow["links"]}
    prompt = {}
    for node in sorted(workflow["nodes"], key=lambda node: node["order"]):
        values, given = iter(node["widgets_values"]), {}
        for name, (kind, *options) in inputs_of(nodes[node["type"]]).items():
            if is_widget(kind):
                given[name] = next(values)
                if options and options[0].get("control_after_generate"):
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
        given |= {plug["name"]: sources[plug["link"]] for plug in node["inputs"]}
        assert next(values, None) is None, f"{node['type']} has more values than widgets"
        prompt[node["id"]] = {"class_type": node["type"], "inputs": given}
    return prompt


def check_value(name: str, kind: Any, options: dict[str, Any], value: Any) -> None:
    """Refuse what ComfyUI's validation refuses."""
    if isinstance(kind, list):
        assert value in kind, f"{name}: {value!r} is not one of {kind}"
    else:
        value = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}[kind](value)
        assert "min" not in options or value >= options["min"], f"{name} is too small"
        assert "max" not in options or value <= options["max"], f"{name} is too large"


def execute(prompt: dict[int, dict[str, Any]], nodes: dict[str, Any]) -> dict[int, Any]:
    """Run the nodes of a prompt in order, in inference mode as ComfyUI does; return what each gave."""
    done: dict[int, Any] = {}
    with torch.inference_mode():
        for number, node in prompt.items():
            kind = nodes[node["class_type"]]
            given, told = {}, kind.INPUT_TYPES()
            missing = told["required"].keys() - node["inputs"].keys()
            assert not missing, f"{node['class_type']} misses {missing}"
            for name, value in node["inputs"].items():
                wanted, *options = inputs_of(kind)[name]
                if isinstance(value, tuple):
                    origin, slot = value
                    came = nodes[prompt[origin]["class_type"]].RETURN_TYPES[slot]
                    assert came == wanted, f"{name} wants {wanted}, {came} is plugged in"
                    value = done[origin][slot]
                else:
                    check_value(name, wanted, options[0] if options else {}, value)
                given[name] = value
            result = getattr(kind(), kind.FUNCTION)(**given)
            done[number] = result["result"] if isinstance(result, dict) else result
    return done
