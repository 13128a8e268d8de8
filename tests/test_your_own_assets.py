"""docs/your-own-assets.md, command by command: what a newcomer types works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from viewfold.cli import main
from viewfold.picture import to_pil
from viewfold.pipeline import load

COMMANDS = re.compile(r"^viewfold (.+)$", re.MULTILINE)


@pytest.mark.slow
def test_each_command_of_the_page_works_after_the_one_before(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs" / "your-own-assets.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in COMMANDS.findall(block)]
    assert [command.split()[0] for command in commands] == ["assets", "render", "pack", "pack", "train", "generate"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        to_pil(torch.rand(3, 80, 64)).save(tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text("a picture of noise")
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    assert "viewfold" in (tmp_path / "run" / "model" / "ATTRIBUTION.md").read_text().lower()
    assert len(list((tmp_path / "mug").glob("00?.png"))) == 4
    assert load(tmp_path / "run" / "model", device="cpu").image_size == 64
