"""The Dockerfile, line by line: what it copies is there, what it runs exists, and what it starts asks for a token."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from viewfold.cli import main
from viewfold.cli.serve import Serve

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Return what the Dockerfile says: words in capitals, and what follows each."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def told(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(path: str) -> bool:
    """Tell whether Docker leaves out a path, or a folder that it is in."""
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for pattern in ignored():
        at_any_depth = pattern.removeprefix("**/")
        if any(fnmatch.fnmatch(each, pattern) for each in above):
            return True
        if at_any_depth != pattern and any(fnmatch.fnmatch(part, at_any_depth) for part in parts):
            return True
    return False


def test_every_line_is_an_instruction_that_docker_knows() -> None:
    known = {"FROM", "ARG", "RUN", "WORKDIR", "USER", "COPY", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert {word for word, _ in instructions()} <= known and instructions()[0] == ("FROM", "python:3.11-slim")
    assert len(told("CMD")) == len(told("EXPOSE")) == 1


def test_what_is_copied_is_there_and_docker_is_shown_it() -> None:
    copied = [shlex.split(line) for line in told("COPY")]
    assert all(words[0] == "--chown=viewfold" for words in copied)
    for *sources, _target in (words[1:] for words in copied):
        for source in sources:
            assert (ROOT / source).exists() and not is_ignored(source), source
    for needed in ("src/viewfold/models/toybox/model_index.json", "src/viewfold/cli/serve.py", "scripts/setup"):
        assert not is_ignored(needed)
    for kept in ("out/serve/tokens.json", ".git/config", ".venv/bin/python", "src/viewfold/__pycache__/x.pyc"):
        assert is_ignored(kept)
    for line in (ROOT / ".gitignore").read_text().split():
        assert is_ignored(line.strip("/").replace("*", "x")), f"git ignores {line}"


def test_what_setup_reads_is_copied_before_it_runs_and_the_code_after() -> None:
    words = [f"{word} {rest}" for word, rest in instructions()]
    runs = next(n for n, line in enumerate(words) if line.startswith("RUN") and "scripts/setup" in line)
    before = " ".join(words[:runs])
    assert os.access(ROOT / "scripts" / "setup", os.X_OK)
    (key,) = re.findall(r"\$\(cat (.*?) \| cksum\)", (ROOT / "scripts" / "setup").read_text())
    for name in key.split():
        assert name.split("/")[0] in before, f"scripts/setup reads {name}"
    project = (ROOT / "pyproject.toml").read_text()
    for name in re.findall(r'readme = "(.*?)"|license-files = \["(.*?)"\]', project):
        assert "".join(name) in before
    assert 'attr = "viewfold.__version__"' in project and "src/viewfold/__init__.py" in before
    assert "COPY --chown=viewfold . ." in words[runs:]


def test_it_runs_as_a_user_without_rights_in_folders_of_its_own() -> None:
    words = [word for word, _ in instructions()]
    assert told("USER") == ["viewfold"] and words.index("USER") < words.index("COPY") < words.index("CMD")
    made = told("RUN")[0]
    assert "useradd" in made and "chown viewfold /app /data" in made and told("VOLUME") == ["/data"]


def test_the_port_is_the_servers_and_the_check_asks_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert told("EXPOSE") == [str(Serve().port)]
    assert f"127.0.0.1:{Serve().port}/healthz" in told("HEALTHCHECK")[0]
    check = json.loads(told("HEALTHCHECK")[0].partition("CMD ")[2])
    compile(check[2], "healthcheck", "exec")


def test_without_a_token_it_ends_with_words_that_say_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = json.loads(told("CMD")[0])
    assert program == "viewfold" and 'viewfold = "viewfold.cli:main"' in (ROOT / "pyproject.toml").read_text()
    arguments = [str(tmp_path) if each == "/data" else each for each in arguments]
    assert main(arguments) == 2
    assert "--add-user" in capsys.readouterr().err


def test_the_page_on_containers_names_options_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    said = set(re.findall(r"viewfold serve (.*?)(?:\s{2,}#|`|$)", (ROOT / "docs" / "docker.md").read_text(), re.M))
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {flag for line in said for flag in re.findall(r"--[a-z-]+", line)} <= flags and len(said) >= 2
