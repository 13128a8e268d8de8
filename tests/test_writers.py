"""Where figures go: log.jsonl always; TensorBoard and Weights & Biases written and read back, where installed."""

from __future__ import annotations

import importlib.util
import json
import time
import warnings
from pathlib import Path

import pytest
import torch

from viewfold.errors import InputError, MissingExtraError
from viewfold.training.writers import Writer, open_writers


def write(writers: list[Writer]) -> None:
    for writer in writers:
        for step in (0, 1):
            writer.scalars(step, {"loss": 0.5 - step / 4, "norm": 2.0})
        writer.picture(1, "mug", torch.linspace(0, 1, 3 * 4 * 6).reshape(3, 4, 6))
        writer.close()


def test_figures_are_lines_and_pictures_are_files(tmp_path: Path) -> None:
    write(open_writers([], tmp_path / "run", {}))
    write(open_writers([], tmp_path / "run", {}))  # a resumed run adds to it
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines == 2 * [{"step": 0, "loss": 0.5, "norm": 2.0}, {"step": 1, "loss": 0.25, "norm": 2.0}]
    from viewfold.picture import read_image

    assert read_image(tmp_path / "run" / "samples" / "00000001-mug.png").shape == (3, 4, 6)


def test_an_unknown_writer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tensorboard or wandb; got 'csv'"):
        open_writers(["csv"], tmp_path, {})


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_an_absent_package_is_named_with_the_command_that_installs_it(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingExtraError, match=rf"{name} is absent. pip install 'viewfold\[{name}\]'"):
        open_writers([name], tmp_path, {})


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(open_writers(["tensorboard"], tmp_path, {}))
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.5), (1, 0.25)]
    (picture,) = events.Images("mug")
    assert (picture.step, picture.width, picture.height) == (1, 6, 4)


def test_weights_and_biases_keeps_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(open_writers(["wandb"], tmp_path, {"seed": 3}))
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    until, content = time.monotonic() + 60, b""  # a process of its own writes them
    while not (b"loss" in content and b"seed" in content) and time.monotonic() < until:
        time.sleep(0.1)
        content = next(run.glob("*.wandb")).read_bytes()
    assert b"loss" in content and b"seed" in content and next((run / "files" / "media" / "images").glob("mug*.png"))
