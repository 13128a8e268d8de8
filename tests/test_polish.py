"""A mesh that is polished comes closer to the views, stays closed, and moves no further than it may."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trimesh
from lift_fakes import RADIUS, ball_views, overlap
from second_device import second_device
from sphere import Sphere

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.evaluation.likeness import compare_surfaces
from viewfold.lifting.extraction import Extracted
from viewfold.lifting.observation import observe
from viewfold.lifting.photometric import Photometric
from viewfold.lifting.polish import FARTHEST, PolishSettings, polish
from viewfold.scene.large_steps import LargeSteps, UniformAdam
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.regularize import unevenness
from viewfold.scene.rendering import Rendering
from viewfold.scene.soft import Topology
from viewfold.scene.surface import SurfaceResult, is_watertight


def ball(radius: float, *, subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(vertices=torch.tensor(made.vertices).float(), faces=torch.tensor(made.faces).long())


def extracted(
    mesh: Mesh, *, n_views: int = 6, watertight: bool = True, device: torch.device | str = "cpu"
) -> Extracted:
    """Return a mesh as if it had been taken from a grey sphere, beside views of the ball."""
    surface = SurfaceResult(
        mesh=mesh, threshold=1.0, silhouette_iou=1.0, components_found=1, components_kept=1, watertight=watertight
    )
    observed = observe(ball_views(size=48, n_views=n_views).to(device))
    grey = Sphere(0.3, torch.tensor([0.5, 0.5, 0.5])).to(device)
    return Extracted(surface=surface, representation=grey, observed=observed)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("radius", [0.3, 0.39])
def test_a_ball_of_the_wrong_size_becomes_the_one_in_the_views(radius: float) -> None:
    before, true = ball(radius), ball(RADIUS, subdivisions=4)
    after = polish(extracted(before), generator=generator()).surface.mesh
    assert torch.equal(after.faces, before.faces) and is_watertight(after)
    beside = Cameras.at(elevation_deg=[15.0] * 4, azimuth_deg=[20.0, 110.0, 200.0, 290.0])
    drawn = {name: rasterize(mesh, beside, size=64).alpha for name, mesh in (("after", after), ("true", true))}
    assert (
        overlap(drawn["after"], drawn["true"]) > 0.96 > overlap(rasterize(before, beside, size=64).alpha, drawn["true"])
    )
    assert compare_surfaces(after, true).chamfer < 0.6 * compare_surfaces(before, true).chamfer


class Constant:
    """Draws the same red, half covering, from everywhere."""

    def render(self, cameras: Cameras, *, size: int, **_: object) -> Rendering:
        alpha = torch.full((len(cameras), 1, size, size), 0.5)
        red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
        return Rendering(rgb=alpha * red, alpha=alpha, depth=alpha, normal=alpha.expand(-1, 3, -1, -1))


def test_what_is_opaque_is_compared_over_the_views_own_ground_and_with_coverage_that_is_known() -> None:
    """By hand: (0.5, 0, 0) + 0.5 (0.2, 0.4, 0.6) is (0.6, 0.2, 0.3); certainty 1 in one half and 0.5 in the other."""
    cameras = Cameras.orbit(1)
    sure = torch.ones(1, 1, 8, 8)
    sure[..., 4:] = 0.5
    pictures = Photometric(
        rgb=torch.tensor([0.5, 0.2, 0.0])[None, :, None, None].expand(1, 3, 8, 8),
        alpha=torch.full((1, 1, 8, 8), 0.1),
        certainty=sure,
        background=torch.tensor([[0.2, 0.4, 0.6]]),
        cameras=cameras,
        alpha_weight=3.0,
    )
    color = 0.75 * (0.1**2 + 0 + 0.3**2) / 3
    assert float(pictures.opaque_loss(Constant())) == pytest.approx(color)
    known = replace(pictures, alpha_known=True)
    assert float(known.opaque_loss(Constant())) == pytest.approx(color + 3.0 * 0.75 * 0.4**2)
    views = ball_views(size=16)
    assert not Photometric.of(observe(views)).alpha_known
    assert Photometric.of(observe(replace(views, alpha=views.rgb[:, :1] * 0 + 0.5))).shrunk(8).some(1).alpha_known


def test_a_part_in_the_grounds_colour_that_silhouettes_miss_is_kept() -> None:
    """A ball with a band of the ground's colour, which silhouettes leave out: against them a mesh is carved in two."""
    true, given = ball(RADIUS, subdivisions=4), extracted(ball(RADIUS), n_views=6)
    views = given.observed.views
    band = (true.vertices[:, 2:].abs() < 0.06).float()
    painted = replace(true, vertex_color=torch.lerp(true.vertices.new_tensor([0.9, 0.1, 0.1]), torch.tensor(0.5), band))
    rgb = rasterize(painted, views.cameras, size=48, light=None).over(0.5)
    observed = observe(replace(views, rgb=rgb))
    missed = rasterize(true, views.cameras, size=48).alpha - observed.foreground.alpha
    assert float(missed.clamp_min(0).mean()) > 0.02, "silhouettes miss it"
    after = polish(replace(given, observed=observed), generator=generator()).surface.mesh
    assert compare_surfaces(after, true).chamfer < 0.01
    side = Cameras.at(elevation_deg=[15.0] * 3, azimuth_deg=[20.0, 140.0, 260.0])
    assert overlap(*(rasterize(mesh, side, size=64).alpha for mesh in (after, true))) > 0.97


def test_evenness_spreads_the_vertices_evenly() -> None:
    rough = [
        float(
            unevenness(
                polish(extracted(ball(0.3)), settings=PolishSettings(steps=15, evenness=weight)).surface.mesh.vertices,
                Topology.of(ball(0.3).faces).ends,
            )
        )
        for weight in (0.0, 100.0)
    ]
    assert rough[1] < 0.8 * rough[0]


def test_without_steps_or_of_an_open_mesh_nothing_changes() -> None:
    given = extracted(ball(0.3))
    assert polish(given, settings=PolishSettings(steps=0)) is given
    is_open = extracted(replace(ball(0.3), faces=ball(0.3).faces[1:]), watertight=False)
    assert polish(is_open) is is_open


def test_no_vertex_moves_further_than_it_may_nor_out_of_the_box() -> None:
    """However large the steps are."""
    before = ball(0.25, subdivisions=2)
    wild = PolishSettings(steps=20, learning_rate=1.0, smoothness=0.0)
    after = polish(extracted(before), settings=wild, generator=generator()).surface.mesh
    moved = (after.vertices - before.vertices).norm(dim=-1)
    assert FARTHEST * 0.5 < float(moved.max()) <= FARTHEST + 1e-5
    a, b = (mesh.vertices[mesh.faces] for mesh in (before, after))
    normal = [torch.linalg.cross(q[:, 1] - q[:, 0], q[:, 2] - q[:, 0]) for q in (a, b)]
    assert bool(((normal[0] * normal[1]).sum(-1) >= 0).all())  # none has turned over


def test_the_same_seed_polishes_the_same_and_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    settings = PolishSettings(steps=3, views_at_once=2)
    some = extracted(ball(0.3))
    one, two = (
        polish(some, settings=settings, generator=generator(), progress=lambda *q: told.append(q)).surface.mesh.vertices
        for _ in range(2)
    )
    other = polish(some, settings=settings, generator=torch.Generator().manual_seed(1)).surface.mesh.vertices
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert told[:4] == [("polish", step, 3) for step in range(4)]


def test_colours_are_asked_for_at_the_vertices_looking_against_unit_normals() -> None:
    asked: list[torch.Tensor] = []

    class Watched(Sphere):
        def surface_color(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
            asked.extend((points, normals))
            return super().surface_color(points, normals)

    given = ball(0.3)
    made = replace(extracted(given), representation=Watched(0.3, torch.tensor([0.5, 0.5, 0.5])))
    polish(made, settings=PolishSettings(steps=1))
    assert torch.equal(asked[0], given.vertices)
    torch.testing.assert_close(asked[1], given.vertices / 0.3, atol=0.02, rtol=0)
    torch.testing.assert_close(asked[1].norm(dim=-1), torch.ones(len(given.vertices)))


def test_rates_fall_to_a_fifth_in_a_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shape: list[float] = []
    color: list[float] = []
    monkeypatch.setattr(UniformAdam, "step", lambda self, rate: shape.append(rate))
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: color.append(self.param_groups[0]["lr"]))
    polish(extracted(ball(0.3)), settings=PolishSettings(steps=4, learning_rate=0.5, color_rate=2.0))
    assert shape == pytest.approx([0.5, 0.4, 0.3, 0.2]) and color == pytest.approx([2.0, 1.6, 1.2, 0.8])


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    given = extracted(ball(0.3))
    given.observed.views.rgb[0, 0, 20, 20] = float("nan")
    with pytest.raises(FitError, match="the polish must stay finite; its loss was nan at step 0"):
        polish(given, settings=PolishSettings(views_at_once=6))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("smoothness", -1.0),
        ("evenness", float("nan")),
        ("views_at_once", 0),
        ("learning_rate", 0.0),
        ("color_rate", float("nan")),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"`{name}` must"):
        PolishSettings(**{name: value})


def test_it_polishes_where_the_views_are() -> None:
    given = extracted(ball(0.3, subdivisions=2), n_views=2)
    settings = PolishSettings(steps=2)
    here = polish(given, settings=settings, generator=generator()).surface.mesh
    with second_device() as device:
        there = extracted(ball(0.3, subdivisions=2), n_views=2, device=device)
        after = polish(there, settings=settings, generator=generator()).surface.mesh
        torch.testing.assert_close(after.vertices, here.vertices, atol=1e-5, rtol=0)


# The change of variables --------------------------------------------------------------------------------------------


def path(n: int) -> torch.Tensor:
    return torch.stack([torch.arange(n - 1), torch.arange(1, n)], dim=1)


def test_spread_and_gather_undo_each_other() -> None:
    made = ball(0.3, subdivisions=2)
    steps = LargeSteps(Topology.of(made.faces).ends, len(made.vertices), smoothness=7.0)
    torch.testing.assert_close(steps.gather(steps.spread(made.vertices)), made.vertices, atol=1e-5, rtol=0)


def test_the_matrix_is_one_and_smoothness_times_the_laplacian() -> None:
    """Of three vertices in a row: degrees 1, 2, 1."""
    steps = LargeSteps(path(3), 3, smoothness=2.0)
    matrix = torch.tensor([[3.0, -2, 0], [-2, 5, -2], [0, -2, 3]])
    values = torch.tensor([[1.0, 0, 2], [0, 1, -1], [3, 0, 0]])
    torch.testing.assert_close(steps.spread(values), matrix @ values)
    torch.testing.assert_close(steps.gather(values), torch.linalg.solve(matrix, values))


def test_the_gradient_is_spread_by_the_same_solve() -> None:
    steps, weight = LargeSteps(path(5), 5, smoothness=3.0), torch.arange(15.0).reshape(5, 3)
    values = torch.zeros(5, 3, requires_grad=True)
    (steps.gather(values) * weight).sum().backward()
    torch.testing.assert_close(values.grad, steps.gather(weight))


def test_one_pull_moves_the_surroundings_too_and_what_is_moved_as_a_whole_stays_whole() -> None:
    steps = LargeSteps(path(21), 21, smoothness=10.0)
    pull = torch.zeros(21, 3)
    pull[10] = 1
    moved = steps.gather(pull)[:, 0]
    assert (
        float(moved[10]) < 0.2 and float(moved[8]) > 0.4 * float(moved[10]) and float(moved.sum()) == pytest.approx(1)
    )
    torch.testing.assert_close(steps.gather(torch.ones(21, 3)), torch.ones(21, 3))


def test_uniform_adam_keeps_the_direction_of_the_gradient() -> None:
    """By hand: the first step is rate g / max |g|; Adam's own would move all by the rate."""
    place = torch.zeros(2, 3, requires_grad=True)
    place.grad = torch.tensor([[4.0, 2, 0], [-1, 0, 0]])
    made = UniformAdam(place)
    made.step(0.1)
    torch.testing.assert_close(place.detach(), -0.1 * torch.tensor([[1.0, 0.5, 0], [-0.25, 0, 0]]))
    place.grad = torch.zeros(2, 3)
    made.step(0.1)  # momentum 0.09 g / (1 - 0.81) over sqrt(0.000999 16 / (1 - 0.998001))
    moment, largest = 0.09 * 4 / 0.19, (0.000999 * 16 / 0.001999) ** 0.5
    assert float(place[0, 0].detach()) == pytest.approx(-0.1 - 0.1 * moment / largest, rel=1e-4)
