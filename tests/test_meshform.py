"""A mesh that is optimised as itself: where its vertices are, may go and go back to, and its colours between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trimesh

from viewfold.errors import InputError
from viewfold.scene.field import BOX_RADIUS
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshform import MeshForm, MeshFormSettings
from viewfold.scene.regularize import unevenness

TETRAHEDRON = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.2
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
COLORS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]])
SETTINGS = MeshFormSettings()


def form(**how) -> MeshForm:
    return MeshForm(Mesh(vertices=TETRAHEDRON, faces=FACES), COLORS, **how)


def ball(**how) -> MeshForm:
    made = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    vertices, faces = torch.tensor(made.vertices).float(), torch.tensor(made.faces).long()
    return MeshForm(Mesh(vertices=vertices, faces=faces), torch.full_like(vertices, 0.5), **how)


def move(made: MeshForm, by: list[float]) -> None:
    """Move all vertices alike: smoothness lets that pass."""
    with torch.no_grad():
        made.spread += torch.tensor(by)


def test_it_begins_as_its_mesh_in_colours_that_can_still_move() -> None:
    torch.testing.assert_close(form().vertices(), TETRAHEDRON, atol=1e-6, rtol=0)
    torch.testing.assert_close(form().tint.sigmoid(), COLORS)
    made = MeshForm(Mesh(vertices=TETRAHEDRON, faces=FACES), torch.tensor([0.0, 1, 0]).expand(4, 3))
    torch.testing.assert_close(made.tint.sigmoid(), torch.tensor([0.02, 0.98, 0.02]).expand(4, 3))


def test_a_guess_is_meshed_where_it_is_half_sure_and_coloured_there() -> None:
    def solid(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sigmoid((0.3 - points.norm(dim=-1)) * 20), (points + 0.5).clamp(0, 1)

    made = MeshFormSettings(resolution=24, faces=500).begin(solid)
    vertices = made.vertices().detach()
    assert 400 < len(made.topology.faces) <= 500
    assert float((vertices.norm(dim=-1) - 0.3).abs().max()) < 0.03, "half a cell"
    torch.testing.assert_close(made.tint.sigmoid(), (vertices + 0.5).clamp(0.02, 0.98), atol=1e-4, rtol=0)


def test_vertices_go_no_further_than_they_may_and_stay_in_the_box() -> None:
    for farthest, moved in ((float("inf"), 0.3), (0.1, 0.1), (0.5, 0.3)):
        made = form(farthest=farthest)
        move(made, [0.3, 0.0, 0.0])
        expected = (TETRAHEDRON + torch.tensor([moved, 0, 0])).clamp(-BOX_RADIUS, BOX_RADIUS)
        torch.testing.assert_close(made.vertices(), expected, atol=1e-6, rtol=0)
    made = form()
    move(made, [0.0, -5.0, 5.0])
    torch.testing.assert_close(made.vertices()[:, 1:], torch.tensor([-BOX_RADIUS, BOX_RADIUS]).expand(4, 2))


def test_a_spread_vertex_takes_its_neighbours_along_as_smoothness_says() -> None:
    """(I + 3 L) x = u, with the tetrahedron's L = 4 I - 1, keeps the mean, and divides what is beside it by 13."""
    made, step = form(settings=replace(SETTINGS, smoothness=3.0)), 0.01
    with torch.no_grad():
        made.spread[0, 0] += step
    moved = (made.vertices() - TETRAHEDRON)[:, 0] / step
    torch.testing.assert_close(moved, torch.tensor([0.25 + 0.75 / 13] + [0.25 - 0.25 / 13] * 3), atol=1e-4, rtol=0)


def test_vertices_get_a_fiftieth_of_the_rate() -> None:
    made = form()
    vertices, colors = made.groups(0.1)
    assert vertices["params"] == [made.spread] and vertices["lr"] == pytest.approx(0.002)
    assert colors["params"] == [made.tint] and colors["lr"] == 0.1


def test_its_own_loss_is_how_uneven_it_is_and_nan_where_anything_is() -> None:
    made = form(settings=replace(SETTINGS, evenness_weight=7.0))
    assert float(made.prior_loss().detach()) == pytest.approx(
        7 * float(unevenness(TETRAHEDRON, made.topology.ends)), rel=1e-5
    )
    for of in ("tint", "spread"):
        made = form()
        with torch.no_grad():
            getattr(made, of)[2, 1] = float("nan")
        assert not made.is_finite() and bool(made.prior_loss().isnan())


def test_faces_that_turned_over_go_back_to_where_they_were() -> None:
    made, whole = ball(settings=replace(SETTINGS, smoothness=0.0)), ball().vertices().detach()
    with torch.no_grad():
        made.spread[5] = -0.5 * made.spread[5]  # through the middle, and out of the other side
        made.spread[40] *= 1.05
    finished = made.finished()
    torch.testing.assert_close(finished[5], whole[5], atol=1e-6, rtol=0)
    torch.testing.assert_close(finished[40], 1.05 * whole[40], atol=1e-6, rtol=0)
    back = made.to_mesh(resolution=8, max_faces=10_000)
    torch.testing.assert_close(back.mesh.vertices, finished)
    assert back.threshold == 0, "nothing was thresholded"
    assert back.watertight and back.fine is not None and len(back.fine.faces) == 320
    assert len(made.to_mesh(resolution=8, max_faces=100).mesh.faces) <= 100


def test_pieces_are_counted() -> None:
    two = Mesh(vertices=torch.cat([TETRAHEDRON, TETRAHEDRON + 0.5]), faces=torch.cat([FACES, FACES + 4]))
    assert MeshForm(two, COLORS.repeat(2, 1)).to_mesh(resolution=8, max_faces=100).components_kept == 2
    assert form().to_mesh(resolution=8, max_faces=100).components_found == 1


def test_colours_are_mixed_by_the_inverse_square_of_the_distance() -> None:
    made = form()
    points = torch.stack(
        [TETRAHEDRON[0], TETRAHEDRON[[0, 1, 2]].mean(dim=0), 0.7 * TETRAHEDRON[0] + 0.3 * TETRAHEDRON[1]]
    )
    found = made.surface_color(points, points)
    torch.testing.assert_close(found[0], COLORS[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], COLORS[:3].mean(dim=0), atol=1e-4, rtol=0)
    # an edge is of length one: 0.3 and 0.7 away, and (3/4 + 0.2^2)^1/2 from the other two, of which one counts
    weight = torch.tensor([1 / 0.09, 1 / 0.49, 1 / 0.79])
    one_of = [(weight[:, None] * COLORS[[0, 1, other]]).sum(dim=0) / weight.sum() for other in (2, 3)]
    assert any(torch.allclose(found[2], each, atol=1e-4) for each in one_of)
    assert made.surface_color(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)
    many = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.surface_color(many, many)[4500:], made.surface_color(many[4500:], many[4500:]))


def test_it_goes_back_and_on_and_refuses_what_is_another_meshs() -> None:
    made = form()
    kept, state = made.snapshot(), made.state()
    move(made, [0.1, 0, 0])
    with torch.no_grad():
        made.tint += 1
    for back in (lambda: made.restore(kept), lambda: made.resume(state)):
        back()
        torch.testing.assert_close(made.vertices(), TETRAHEDRON, atol=1e-6, rtol=0)
        torch.testing.assert_close(made.tint.sigmoid(), COLORS)
    with pytest.raises(InputError, match="162 vertices; got 4"):
        ball().restore(kept)
    made.set_detail(0.5)
    assert len(made.snapshot()[0]) == 4, "it has the vertices that it has"
    with pytest.raises(InputError, match="`detail` must lie above 0"):
        made.set_detail(0.0)


@pytest.mark.parametrize(
    "wrong", [{"resolution": 7}, {"faces": 3}, {"smoothness": -1.0}, {"evenness_weight": -1.0}, {"smoothness": 2e6}]
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(wrong))}` must lie between"):
        MeshFormSettings(**wrong)
