"""docs/your-own-assets.md and docs/data.md, command by command: what a newcomer types works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from viewfold.cli import main
from viewfold.data.manifest import read_manifest
from viewfold.picture import to_pil
from viewfold.pipeline import load

COMMANDS = re.compile(r"^viewfold (.+)$", re.MULTILINE)


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        to_pil(torch.rand(3, 80, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a picture of noise")


@pytest.mark.slow
def test_each_command_of_the_page_works_after_the_one_before(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs" / "your-own-assets.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in COMMANDS.findall(block)]
    assert [command.split()[0] for command in commands] == ["assets", "render", "pack", "pack", "train", "generate"]
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    assert "viewfold" in (tmp_path / "run" / "model" / "ATTRIBUTION.md").read_text().lower()
    assert len(list((tmp_path / "mug").glob("00?.png"))) == 4
    assert load(tmp_path / "run" / "model", device="cpu").image_size == 64


@pytest.mark.slow
def test_the_commands_about_data_work_in_their_order(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs" / "data.md").read_text()
    found = [re.split(r"\s{3,}", line)[0] for line in COMMANDS.findall(page) if "->" not in line]
    assert {command.split()[0] for command in found} == {"render", "pack", "train"} and len(found) == 8
    monkeypatch.chdir(tmp_path)
    assert main(["assets", "3", "--out", "FOLDER"]) == 0
    (tmp_path / "captions.csv").write_text("".join(f"{path.stem},a toy\n" for path in tmp_path.glob("FOLDER/*.glb")))
    write_pictures(tmp_path / "PICTURES")
    for command in found:
        less = ["--steps", "2", "--batch", "2", "--warmup", "0"] if command.startswith("train") else []
        assert main([*shlex.split(command), *less]) == 0, command
    entries = read_manifest(tmp_path / "renders").values()
    assert all(len(entry.captions) > 1 for entry in entries), "the sidecars' again, for the last command has no table"
