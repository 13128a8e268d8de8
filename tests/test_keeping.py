"""The folder that a lift keeps: states that show damage, settings that are held to, previews, one lift at a time."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lift_fakes import PerfectPrior, ball, ball_views

from viewfold.errors import InputError, OutputError
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.keeping import Keeper, hash_views, keeping
from viewfold.lifting.observation import observe
from viewfold.lifting.preview import Preview, Previews
from viewfold.picture import read_image
from viewfold.scene.blob import Blob
from viewfold.scene.grid import GridSettings
from viewfold.scene.mesh import Mesh
from viewfold.store import finite

STATE = {
    "step": 3,
    "loss": 0.1,
    "nested": [(1, {"weights": torch.arange(6.0)}), None],
    4: torch.tensor([True, False]),
}


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.state"))


def test_a_state_comes_back_as_it_was_and_the_one_before_it_stays(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    assert keeper.load("distil") is None and not keeper.holds_state
    for step in range(4):
        keeper.save("distil", STATE | {"step": step})
    assert states(tmp_path) == ["distil.0.state", "distil.1.state"] and keeper.holds_state
    found = Keeper(tmp_path).load("distil")
    assert found is not None and found["step"] == 3 and found["loss"] == 0.1 and found["nested"][1] is None
    number, inner = found["nested"][0]
    assert number == 1 and torch.equal(inner["weights"], torch.arange(6.0)) and found[4].tolist() == [True, False]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("flip the last byte", "its bytes are not those that were written"),
        ("flip the number", "its bytes are not those that were written"),
        ("cut", "its bytes are not those that were written"),
        ("empty", "it is cut off"),
        ("pickle", "it is cut off"),
    ],
)
def test_a_damaged_state_is_named_and_the_one_before_it_is_taken(damage: str, says: str, tmp_path: Path) -> None:
    keeper, notes = Keeper(tmp_path), []
    keeper.save("distil", {"step": 1})
    keeper.save("distil", {"step": 2})
    newest = tmp_path / "distil.1.state"
    content = bytearray(newest.read_bytes())
    match damage:
        case "flip the last byte":
            content[-1] ^= 1
        case "flip the number":
            content[15] ^= 8
        case "cut":
            content = content[:-7]
        case "empty":
            content = bytearray()
        case "pickle":
            content = bytearray(b"\x80\x04.")
    newest.write_bytes(content)
    resumed = Keeper(tmp_path, note=notes.append)
    assert resumed.load("distil") == {"step": 1}
    assert len(notes) == 1 and f"distil.1.state is damaged ({says}" in notes[0]
    resumed.save("distil", {"step": 3})  # over the damaged one
    assert Keeper(tmp_path).load("distil") == {"step": 3} and states(tmp_path) == ["distil.0.state", "distil.1.state"]


def test_states_that_are_all_damaged_are_a_beginning(tmp_path: Path) -> None:
    notes: list[str] = []
    Keeper(tmp_path).save("fit", STATE)
    (tmp_path / "fit.0.state").write_bytes(b"")
    keeper = Keeper(tmp_path, note=notes.append)
    assert keeper.load("fit") is None and "fit.0.state is damaged (it is cut off)" in notes[0]
    keeper.save("fit", {"step": 0})
    assert Keeper(tmp_path).load("fit") == {"step": 0}


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path(tmp_path / "ran").mkdir, ()  # type: ignore[return-value]

    notes: list[str] = []
    Keeper(tmp_path).save("fit", {"evil": Evil()})
    assert Keeper(tmp_path, note=notes.append).load("fit") is None and notes
    assert not (tmp_path / "ran").exists()


def test_a_state_that_would_unpack_to_more_than_it_is_long_is_no_state(tmp_path: Path) -> None:
    notes: list[str] = []
    Keeper(tmp_path).save("fit", {"zeros": torch.zeros(2**20)})
    path = tmp_path / "fit.0.state"
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(path.read_bytes()[48:])) as given, zipfile.ZipFile(packed, "w") as archive:
        for entry in given.infolist():
            archive.writestr(entry.filename, given.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    content = (1).to_bytes(8, "big") + packed.getvalue()
    path.write_bytes(b"vf-lift\n" + content[:8] + hashlib.sha256(content).digest() + content[8:])
    assert Keeper(tmp_path, note=notes.append).load("fit") is None and "it is compressed" in notes[0]


def test_views_are_drawn_once_and_come_back_exactly(tmp_path: Path) -> None:
    drawn = replace(ball_views(), run={"seconds": 1.5, "tries": {"seeds": [0, 3]}})
    kept = Keeper(tmp_path).views("first-7", lambda: drawn)
    found = Keeper(tmp_path).views("first-7", lambda: pytest.fail("drawn again"))
    assert kept is drawn and hash_views(found) == hash_views(drawn) and torch.equal(found.rgb, drawn.rgb)
    assert (found.prompt, found.run, found.alpha) == (drawn.prompt, drawn.run, None)
    other = Keeper(tmp_path).views("first-8", lambda: replace(drawn, rgb=drawn.rgb + 1e-7))
    assert hash_views(other) != hash_views(drawn)


def test_other_settings_are_refused_by_name_and_nothing_is_lost(tmp_path: Path) -> None:
    decides = {"prompt": "a mug", "seed": 1, "settings": {"fit": {"steps": 80}, "range": (0.1, 0.2)}}
    keeper = Keeper(tmp_path)
    keeper.begin(decides)
    keeper.save("fit", {"step": 1})
    notes: list[str] = []
    Keeper(tmp_path, note=notes.append).begin(decides)
    assert notes == [f"the lift goes on from what {tmp_path} keeps."]
    other = {"prompt": "a mug", "seed": 2, "settings": {"fit": {"steps": 60}, "range": (0.1, 0.2)}}
    with pytest.raises(InputError) as refusal:
        Keeper(tmp_path).begin(other)
    assert "seed was 1, is 2; settings.fit.steps was 80, is 60." in str(refusal.value)
    assert "remove that folder, or name another `out`" in str(refusal.value) and str(tmp_path) in str(refusal.value)
    assert Keeper(tmp_path).load("fit") == {"step": 1}


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code may make other numbers, and its states may be others."""
    Keeper(tmp_path).begin({"seed": 1})
    monkeypatch.setattr("viewfold.__version__", "99.0")
    with pytest.raises(InputError, match="software was viewfold .*, is viewfold 99.0"):
        Keeper(tmp_path).begin({"seed": 1})


@pytest.mark.parametrize("content", ["{", "[]", '{"decides": 3}'])
def test_a_damaged_record_makes_the_lift_begin_anew(content: str, tmp_path: Path) -> None:
    notes: list[str] = []
    keeper = Keeper(tmp_path)
    keeper.begin({"seed": 1})
    keeper.save("fit", {"step": 1})
    (tmp_path / "record.json").write_text(content)
    keeper = Keeper(tmp_path, note=notes.append)
    keeper.begin({"seed": 2})
    assert keeper.load("fit") is None and "record.json is damaged; the lift begins anew" in notes[0]
    assert json.loads((tmp_path / "record.json").read_text())["decides"]["seed"] == 2


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds other things"), keeping(tmp_path):
        pytest.fail("it was taken")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_is_one_lifts_at_a_time_and_goes_when_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "mug.lift"
    with keeping(folder):
        with pytest.raises(OutputError, match="another one is at work in"), keeping(folder):
            pytest.fail("both hold it")
    assert not folder.exists()
    with pytest.raises(ValueError, match="anything"), keeping(folder) as keeper:
        keeper.save("fit", STATE)
        raise ValueError("anything but a failure of the fit")
    (folder / ".distil.0.state.viewfold-0").mkdir()  # of a writer that was killed
    with keeping(folder) as keeper:
        assert keeper.load("fit") is not None
        keeper.clear()
    assert not folder.exists()


# Previews -----------------------------------------------------------------------------------------------------------


def made(look: Previews | None) -> dict[str, Any]:
    """Fit the ball in a few steps and distil it, and return what came of it."""
    generator = torch.Generator().manual_seed(0)
    fitted = fit(
        observe(ball_views(size=16)),
        representation=GridSettings(resolution=16, samples=16),
        settings=FitSettings(steps=6),
        generator=generator,
        look=look,
    )
    prior = PerfectPrior(lambda cameras, size: ball(cameras, size=size, samples=1)[0], image_size=16)
    settings = DistilSettings(steps=3, views=2)
    refined = distil(fitted, prior, "a ball", settings=settings, generator=generator, look=look)
    return {"state": refined.representation.state(), "drawn": generator.get_state()}


def test_whoever_watches_changes_nothing() -> None:
    shown: list[Preview] = []
    watched, alone = made(Previews(shown.append, every_s=0)), made(None)
    assert torch.equal(watched["state"]["snapshot"], alone["state"]["snapshot"])
    assert torch.equal(watched["drawn"], alone["drawn"])
    assert [(p.stage, p.step, p.total) for p in shown] == [
        *[("fit", step, 6) for step in range(7)],
        *[("distil", step, 3) for step in range(4)],
    ]


def test_previews_show_the_object_from_four_sides_on_grey_and_no_more_often_than_asked(tmp_path: Path) -> None:
    shown: list[Preview] = []
    made(Previews(shown.append, every_s=1e9))
    assert [(p.stage, p.step) for p in shown] == [("fit", 6), ("distil", 3)]
    rgb = shown[0].rgb
    assert rgb.shape == (4, 3, 128, 128) and not rgb.requires_grad and 0 <= rgb.min() and rgb.max() <= 1
    assert bool(((rgb[:, :, 0, 0] - 0.5).abs() < 0.02).all()), "on the grey that views are drawn on"
    assert bool((rgb[:, 0, 64, 64] > rgb[:, 1, 64, 64] + 0.2).all()), "a red ball"
    Keeper(tmp_path).show(shown[0])
    assert read_image(tmp_path / "preview.webp").shape == (3, 128, 4 * 128 + 6)


def test_a_report_of_nan_is_written_as_null(tmp_path: Path) -> None:
    asset = Asset3D(
        mesh=Mesh(vertices=torch.eye(3), faces=torch.tensor([[0, 1, 2]])),
        representation=GridSettings(resolution=8).begin(Blob()),
        views=ball_views(),
        prompt="a ball",
        report={"psnr_db": math.inf, "seconds": {"fit": math.nan}, "faces": 1},
    )
    asset.save(tmp_path / "ball.ply", turntable=False)
    text = (tmp_path / "ball.json").read_text()
    report = json.loads(text, parse_constant=lambda word: pytest.fail(f"it says {word}"))
    assert report["psnr_db"] is None and report["seconds"] == {"fit": None} and report["faces"] == 1


def test_json_has_no_word_for_nan() -> None:
    found = finite({"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2, True, None, "nan")}]})
    assert found == {"a": None, "b": [1.5, None, {"c": [None, 2, True, None, "nan"]}]}
