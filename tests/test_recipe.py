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

    verb = tyro.cli(VERBS, args=shlex.split(command)[1:])  # type: ignore[call-overload]
    assert type(verb).__name__.lower() in command or command.startswith("viewfold weights")


@pytest.mark.slow
def test_the_quick_recipe_goes_from_assets_to_pictures(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    environment = {**os.environ, "OUT": str(out)}
    subprocess.run(["bash", "recipes/toybox.sh", "--quick"], cwd=ROOT, env=environment, check=True, timeout=600)
    assert len(list((out / "renders").glob("*/meta.json"))) == 8
    assert (out / "run" / "checkpoint-00000004").is_dir() and (out / "run" / "model" / "model_index.json").is_file()
    assert sorted(path.name for path in (out / "mug").glob("0*.png")) == [f"{i:03d}.png" for i in range(4)]
