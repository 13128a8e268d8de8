"""What is common to the engines, and OpenGL's picture beside the built-in one."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from viewfold.data.engines import PAPER, Cycles, Engine, Pictures, RenderSettings, Subject, open_engine
from viewfold.data.engines.settings import LightKind
from viewfold.data.toybox import sample_toy
from viewfold.errors import AssetError, InputError, MissingExtraError
from viewfold.scene.framing import Framing
from viewfold.scene.light import Light
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh

OURS = RenderSettings(size=48, views=2, orbits=1)
THEIRS = dataclasses.replace(OURS, engine="moderngl")


@pytest.fixture(scope="module")
def opengl() -> Iterator[Engine]:
    pytest.importorskip("moderngl", reason="pip install moderngl")
    try:
        engine = open_engine(THEIRS)
    except MissingExtraError as error:
        pytest.skip(str(error))
    yield engine
    engine.close()


def psnr(one: Pictures, two: Pictures) -> float:
    """Of the pictures over grey, in dB."""
    a, b = (p.rgba[:, :3] * p.rgba[:, 3:] + 0.5 * (1 - p.rgba[:, 3:]) for p in (one, two))
    return -10 * math.log10(float((a - b).square().mean()) + 1e-12)


def square(material: Material, *, repeats: float = 1.0) -> Mesh:
    """A square that faces the front and is textured all over."""
    return Mesh(
        vertices=torch.tensor([[-0.4, 0.0, -0.4], [0.4, 0, -0.4], [0.4, 0, 0.4], [-0.4, 0, 0.4]]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * repeats,
        materials=(material,),
    )


def noise(channels: int = 3, size: int = 64) -> torch.Tensor:
    cells = torch.rand(size // 8, size // 16, channels, generator=torch.Generator().manual_seed(0)).round()
    return cells.repeat_interleave(8, 0).repeat_interleave(8, 1)


def test_framing_is_the_sphere_of_the_mesh_or_a_unit_cube() -> None:
    mesh = sample_toy(3).mesh().transform(torch.tensor([[3.0, 0, 0, 5], [0, 3, 0, -2], [0, 0, 3, 1], [0, 0, 0, 1]]))
    placed = Framing.of(mesh, "sphere").apply(mesh)
    assert torch.equal(placed.vertices, mesh.fit_sphere().vertices)
    placed = Framing.of(mesh, "cube").apply(mesh).vertices
    low, high = placed.amin(0), placed.amax(0)
    torch.testing.assert_close(low, -high, atol=1e-5, rtol=0)
    assert float((high - low).max()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match="no extent|an extent"):
        Framing.of(dataclasses.replace(mesh, vertices=mesh.vertices * 0), "cube")
    with pytest.raises(InputError, match="at least one face"):
        Framing.of(dataclasses.replace(mesh, faces=mesh.faces[:0], face_material=None), "cube")


def test_cameras_are_the_same_whatever_draws_and_lights() -> None:
    for settings in (THEIRS, dataclasses.replace(OURS, engine="blender", light="random", depth=True, frame="cube")):
        assert torch.equal(settings.cameras("a").world_from_camera, OURS.cameras("a").world_from_camera)


def test_a_random_light_depends_on_seed_and_name_and_keeps_the_brightness() -> None:
    settings = dataclasses.replace(PAPER, seed=1)
    lights = [settings.light_of(f"asset {i}") for i in range(100)]
    assert lights[0] == settings.light_of("asset 0") != dataclasses.replace(settings, seed=2).light_of("asset 0")
    directions = torch.tensor([light.direction for light in lights if light is not None])
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(100))
    assert float(directions[:, 2].min()) > math.sin(math.radians(15)) - 1e-6
    assert all(0.1 < float((directions[:, axis] > 0).float().mean()) < 0.9 for axis in (0, 1))
    brightest = [light.shade(torch.tensor([light.direction])).item() for light in lights if light is not None]
    fixed = Light()
    assert abs(sum(brightest) / 100 / fixed.shade(torch.tensor([[0.4, -0.7, 0.6]]) / 1.005).item() - 1) < 0.2
    assert OURS.light_of("a") == fixed and dataclasses.replace(OURS, light="none").light_of("a") is None


def test_settings_that_differ_are_named_and_those_of_before_a_setting_existed_are_its_default() -> None:
    before = {name: value for name, value in OURS.record().items() if name in ("size", "views", "orbits", "seed")}
    OURS.check_same(before, "it")
    with pytest.raises(InputError, match="`out` must.* it has `light` fixed, not none, `size` 48, not 64"):
        dataclasses.replace(OURS, size=64, light="none").check_same(before, "it")
    blender = dataclasses.replace(OURS, engine="blender")
    blender.check_same(blender.record(), "it")
    with pytest.raises(InputError, match="`samples` 32, not 8"):
        dataclasses.replace(blender, cycles=Cycles(samples=8)).check_same(blender.record(), "it")
    with pytest.raises(InputError, match="`engine` builtin, not blender"):
        blender.check_same(before, "it")


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="`cycles` must go with `engine` blender"):
        RenderSettings(cycles=Cycles())
    with pytest.raises(InputError, match="`samples` must"):
        Cycles(samples=0)
    with pytest.raises(InputError, match="`bounces` must"):
        Cycles(bounces=-1)
    with pytest.raises(InputError, match="`hdri` must go with light"):
        RenderSettings(engine="blender", light="none", cycles=Cycles(hdri="x.hdr"))


@pytest.mark.parametrize("seed", [0, 4, 9])
@pytest.mark.parametrize("light", get_args(LightKind))
def test_opengl_draws_the_built_in_engines_picture_of_a_toy(opengl: Engine, seed: int, light: LightKind) -> None:
    ours = dataclasses.replace(OURS, light=light, depth=True, normals=True)
    theirs = dataclasses.replace(ours, engine="moderngl")
    subject = Subject.of(sample_toy(seed).mesh(), uid="toy")
    cameras = ours.cameras("toy")
    one, two = open_engine(ours).draw(subject, cameras, ours), opengl.draw(subject, cameras, theirs)
    assert psnr(one, two) > 40
    there = (one.rgba[:, 3] > 0.9) & (two.rgba[:, 3] > 0.9)
    assert float((one.depth - two.depth)[:, 0][there].abs().quantile(0.99)) < 1e-3
    assert float((one.normal * two.normal).sum(1)[there].quantile(0.02)) > 0.99
    assert not two.depth[one.rgba[:, 3:] + two.rgba[:, 3:] == 0].any()


@pytest.mark.parametrize("supersample", [1, 2, 3])
@pytest.mark.parametrize(("repeats", "least"), [(0.2, 40), (3.0, 29), (16.0, 29)])
def test_opengl_shows_textures_large_and_small(opengl: Engine, repeats: float, least: float, supersample: int) -> None:
    """Small ones come from a level chosen by pixel here, by face there."""
    ours = dataclasses.replace(OURS, supersample=supersample, views=3)
    subject = Subject.of(square(Material(texture=Texture(image=noise())), repeats=repeats), uid="square")
    cameras = ours.cameras("square")
    one, two = (e.draw(subject, cameras, ours) for e in (open_engine(ours), opengl))
    assert psnr(one, two) > least
    flat = Subject.of(square(Material(color=(0.5, 0.5, 0.5))), uid="square")
    assert psnr(one, open_engine(ours).draw(flat, cameras, ours)) < 20 or repeats > 1, "it shows"


def test_opengl_leaves_out_what_is_cut_away_and_refuses_what_one_sees_through(opengl: Engine) -> None:
    image = torch.rand(16, 16, 4, generator=torch.Generator().manual_seed(0))
    cut = Material(texture=Texture(image=image), alpha_mode="mask", alpha_cutoff=0.6)
    cameras = dataclasses.replace(OURS, random_azimuth=False, views=1, elevation_deg=(0.0, 0.0)).cameras("a")
    there = opengl.draw(Subject.of(square(cut)), cameras, THEIRS).rgba[:, 3].sum()
    whole = opengl.draw(Subject.of(square(dataclasses.replace(cut, alpha_mode="opaque"))), cameras, THEIRS).rgba[:, 3]
    assert 0.1 < float(there / whole.sum()) < 0.7
    clear = square(Material(opacity=0.5, alpha_mode="blend"))
    with pytest.raises(AssetError, match="`glass` cannot be drawn by moderngl"):
        opengl.draw(Subject.of(clear, uid="glass"), cameras, THEIRS)
    opaque = square(Material(opacity=1.0, alpha_mode="blend"))
    assert torch.equal(opengl.draw(Subject.of(opaque), cameras, THEIRS).rgba[:, 3], whole)


def test_without_moderngl_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        open_engine(THEIRS)


def test_a_subject_is_named_after_its_file_and_stands_in_its_place(tmp_path: Path) -> None:
    from viewfold.scene.export import save_mesh

    mesh = sample_toy(0).mesh()
    save_mesh(mesh, tmp_path / "toy.glb")
    subject = Subject.of(tmp_path / "toy.glb", frame="cube")
    assert (subject.uid, subject.path) == ("toy", tmp_path / "toy.glb")
    assert float(subject.mesh.vertices.abs().max()) == pytest.approx(0.5, abs=1e-6)
