"""The recipe of the shipped model runs from assets to pictures; what the README tells people to type is understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def readme_commands() -> list[str]:
    """The `viewfold ...` lines of the shell blocks in README and the page on training, comments dropped."""
    pages = [(ROOT / name).read_text() for name in ("README.md", "docs/train.md")]
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(pages), re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("viewfold ") and "VERB" not in line]


def test_the_readme_has_commands() -> None:
    verbs = {command.split()[1] for command in readme_commands()}
    assert verbs >= {"generate", "lift", "assets", "render", "pack", "train", "weights", "doctor"}


@pytest.mark.parametrize("command", readme_commands())
def test_the_command_line_understands_what_the_readme_says(command: str) -> None:
    import tyro

    from viewfold.cli.command import VERBS

    _, verb, *rest = shlex.split(command)
    understood = tyro.cli(VERBS, args=[verb, *rest])  # type: ignore[call-overload]
    assert type(understood).__name__.lower() == verb
    if verb == "weights":
        assert type(understood.action).__name__.lower() == rest[0]
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag.startswith("--") and value.isdigit():  # what was typed is what it will do
            told = vars(understood) | {k: v for part in vars(understood).values() for k, v in _fields(part).items()}
            said = told[flag.removeprefix("--").replace("-", "_")]
            assert (said[0] if isinstance(said, tuple) else said) == int(value)


def _fields(part: object) -> dict[str, object]:
    return vars(part) if hasattr(part, "__dataclass_fields__") else {}


@pytest.mark.slow
def test_the_quick_recipe_goes_from_assets_to_pictures(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    environment = {**os.environ, "OUT": str(out)}
    subprocess.run(["bash", "recipes/toybox.sh", "--quick"], cwd=ROOT, env=environment, check=True, timeout=600)
    assert len(list((out / "renders").glob("*/meta.json"))) == 8
    assert (out / "run" / "checkpoint-00000004").is_dir() and (out / "run" / "model" / "model_index.json").is_file()
    assert sorted(path.name for path in (out / "mug").glob("0*.png")) == [f"{i:03d}.png" for i in range(4)]
