"""What can be seen through: glass, cut-outs, helpers that are not there, and textures that wrap as they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import AssetError
from viewfold.scene import visibility
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import LAYERS, rasterize
from viewfold.scene.sampling import sample_texture

FRONT = Cameras.orbit(1, elevation_deg=0.0)
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def pane(y: float, half: float = 2.0, **material: object) -> Mesh:
    """A square across the view, `y` behind the origin."""
    corner = [[-half, y, -half], [half, y, -half], [half, y, half], [-half, y, half]]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return Mesh(vertices=torch.tensor(corner), faces=faces, uv=uv, materials=(Material(**material),))  # type: ignore[arg-type]


def center(mesh: Mesh) -> tuple[list[float], float, float]:
    """Colour, alpha and depth in the middle."""
    drawn = rasterize(mesh, FRONT, size=8, light=None)
    return drawn.rgb[0, :, 4, 4].tolist(), float(drawn.alpha[0, 0, 4, 4]), float(drawn.depth[0, 0, 4, 4])


def test_two_panes_before_a_wall_in_any_order_and_before_nothing() -> None:
    glass = {"alpha_mode": "blend", "opacity": 0.25}
    near, far = pane(0.0, color=RED, **glass), pane(0.1, color=GREEN, **glass)
    wall = pane(0.2, color=BLUE)
    for parts in ([near, far, wall], [wall, far, near], [far, wall, near]):
        color, alpha, _ = center(Mesh.cat(parts))
        assert color == pytest.approx([0.25, 0.75 * 0.25, 0.75 * 0.75]) and alpha == pytest.approx(1)
    color, alpha, _ = center(Mesh.cat([far, near]))
    assert color == pytest.approx([0.25, 0.1875, 0]) and alpha == pytest.approx(0.4375)


def test_depth_is_that_of_what_hides_at_least_half() -> None:
    wall = center(pane(0.2))[2]
    for opacity, expected in ((0.25, wall), (0.75, wall - 0.2)):
        mesh = Mesh.cat([pane(0.0, alpha_mode="blend", opacity=opacity), pane(0.2)])
        assert center(mesh)[2] == pytest.approx(expected, abs=1e-4)
    assert center(pane(0.0, alpha_mode="blend", opacity=0.25))[2] == pytest.approx(wall - 0.2, abs=1e-4)


def test_a_cut_out_shows_what_is_behind_its_holes_and_a_mode_that_is_opaque_ignores_alpha() -> None:
    leaf = torch.ones(1, 2, 4)
    leaf[0, 1, 3] = 0.0
    texture = Texture(image=leaf, nearest=True)
    for mode, behind in (("mask", BLUE), ("blend", BLUE), ("opaque", (1.0, 1.0, 1.0))):
        mesh = Mesh.cat([pane(0.0, texture=texture, alpha_mode=mode), pane(0.2, color=BLUE)])
        drawn = rasterize(mesh, FRONT, size=32, light=None).rgb[0, :, 16]
        assert drawn[:, 8].tolist() == pytest.approx([1.0, 1.0, 1.0]) and drawn[:, 24].tolist() == pytest.approx(behind)


def test_alpha_of_vertices_counts_and_more_panes_than_are_peeled_end_in_the_wall() -> None:
    faint = replace(pane(0.0, alpha_mode="blend", color=RED), vertex_alpha=torch.full((4,), 0.5))
    assert center(faint)[1] == pytest.approx(0.5)
    many = [pane(0.01 * i, alpha_mode="blend", opacity=0.1, color=RED) for i in range(LAYERS + 3)]
    color, alpha, _ = center(Mesh.cat([*many, pane(0.5, color=BLUE)]))
    assert color[2] == pytest.approx(0.9**LAYERS, abs=1e-4) and alpha == pytest.approx(1, abs=1e-5)


def test_a_helper_that_cannot_be_seen_does_not_frame_the_object() -> None:
    box = pane(0.0, half=0.1)
    for hidden in ({"alpha_mode": "blend", "opacity": 0.0}, {"alpha_mode": "mask", "opacity": 0.4}):
        both = Mesh.cat([box, pane(0.0, half=5.0, **hidden)])
        assert both.visible().tolist() == [True, True, False, False]
        torch.testing.assert_close(both.fit_sphere().vertices[:4], box.fit_sphere().vertices)
    seen = Mesh.cat([box, pane(0.0, half=5.0, alpha_mode="opaque", opacity=0.0)])
    assert bool(seen.visible().all())


def test_what_shines_adds_to_the_colour_and_what_is_unlit_keeps_it() -> None:
    glow = pane(
        0.0, color=(0.0, 0.0, 0.0), emission=(0.4, 0.2, 0.0), emission_texture=Texture(image=torch.ones(1, 1, 3))
    )
    assert center(glow)[0] == pytest.approx([0.4, 0.2, 0.0])
    lit, unlit = (
        rasterize(pane(0.0, color=(0.5, 0.5, 0.5), lit=lit), FRONT, size=8).rgb[0, 0, 4, 4] for lit in (True, False)
    )
    assert float(unlit) == pytest.approx(0.5) and abs(float(lit) - 0.5) > 0.01


@pytest.mark.parametrize(("wrap", "expected"), [
    ("repeat", [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]),
    ("clamp", [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
    ("mirror", [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]),
])  # fmt: skip
def test_wrap_modes_at_the_centres_of_texels(wrap: str, expected: list[float]) -> None:
    image = torch.tensor([[[0.0] * 3, [1.0] * 3]])
    u = torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.25, 1.75])
    if wrap == "clamp":
        expected = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    for across in (True, False):
        texture = Texture(image=image if across else image.transpose(0, 1).flip(0), wrap=(wrap, wrap))  # type: ignore[arg-type]
        uv = torch.stack([u, torch.full_like(u, 0.5)] if across else [torch.full_like(u, 0.5), u], dim=1)
        for nearest in (False, True):
            got = sample_texture(replace(texture, nearest=nearest), uv, torch.ones(len(u)))[:, 0]
            torch.testing.assert_close(got, torch.tensor(expected))


def test_a_carpet_of_faces_on_one_another_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "OVERDRAW", 20)
    carpet = pane(0.0)
    many = replace(carpet, faces=carpet.faces.repeat(15, 1))
    assert rasterize(many, FRONT, size=8).alpha.min() == 1
    with pytest.raises(AssetError, match="lie on one another 20 times"):
        rasterize(replace(carpet, faces=carpet.faces.repeat(40, 1)), FRONT, size=8)
