"""Light apart from paint: divided out where it is known, found where it is shared, left where it cannot be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.finish import Finish
from viewfold.lifting.light import Estimate, Found, PaintedIn, _least_squares, _Paints, estimate_light, find_light
from viewfold.scene.harmonic import FAINTEST, HarmonicLight, harmonics
from viewfold.scene.light import Light

OTHER = Light(sky=0.9, ground=0.4, key=0.35, direction=(-1.0, -0.2, 0.4))
KNOWN = Found(light=Light(), how="known")


def directions(n: int, *, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def paints(normals: Tensor, *, seed: int = 1) -> Tensor:
    """Three paints, each on normals of all directions; two of them grey, one light and one dark."""
    which = torch.randint(3, (len(normals),), generator=torch.Generator().manual_seed(seed))
    return torch.tensor([[0.8, 0.15, 0.1], [0.9, 0.9, 0.9], [0.3, 0.3, 0.3]])[which]


# Harmonics ------------------------------------------------------------------------------------------------------------


def test_the_harmonics_are_orthonormal_over_the_sphere() -> None:
    height, weight = (torch.from_numpy(x).float() for x in np.polynomial.legendre.leggauss(8))
    turn = torch.arange(16) * (2 * math.pi / 16)
    z, t = torch.meshgrid(height, turn, indexing="ij")
    level = (1 - z.square()).sqrt()
    basis = harmonics(torch.stack([level * t.cos(), level * t.sin(), z], -1).reshape(-1, 3))
    inner = torch.einsum("p,pi,pj->ij", weight.repeat_interleave(16) * (2 * math.pi / 16), basis, basis)
    torch.testing.assert_close(inner, torch.eye(9), atol=1e-4, rtol=0)


def test_a_sky_and_a_ground_are_two_harmonics() -> None:
    """(sky + ground) / 2 + (sky - ground) / 2 z, in terms of 0.282095 and 0.488603 z."""
    sky = Light(sky=0.9, ground=0.5, key=0.0)
    same = HarmonicLight(coefficients=(0.7 / 0.282095, 0, 0.2 / 0.488603, 0, 0, 0, 0, 0, 0))
    normals = directions(50)
    torch.testing.assert_close(same.shade(normals), sky.shade(normals.clone()), atol=1e-5, rtol=0)


def test_a_lamp_is_nine_harmonics_but_for_a_few_hundredths() -> None:
    """max(0, z) = 1/4 + z / 2 + (5/16) (3 z^2 - 1) / 2 ...: pi, 2 pi / 3 and pi / 4 in the source's terms."""
    lamp = HarmonicLight(coefficients=(0.25 / 0.282095, 0, 0.5 / 0.488603, 0, 0, 0, 5 / 32 / 0.315392, 0, 0))
    normals = directions(500)
    error = lamp.shade(normals)[:, 0] - normals[:, 2].clamp_min(0)
    assert float(error.abs().max()) < 0.1 and float(error.square().mean().sqrt()) < 0.05


def test_no_light_is_so_weak_that_nothing_could_be_divided_by_it() -> None:
    dark = HarmonicLight(coefficients=(-1.0,) + (0.0,) * 8)
    assert torch.equal(dark.shade(directions(3)), torch.full((3, 1), FAINTEST))
    polished = dark.polish(torch.ones(3, 3), directions(3), directions(3), torch.zeros(3, 1), torch.ones(3, 1))
    assert torch.equal(polished, torch.full((3, 3), FAINTEST))
    with pytest.raises(InputError, match="9 numbers; got 4"):
        HarmonicLight(coefficients=(1.0,) * 4)


# A known light --------------------------------------------------------------------------------------------------------


def test_a_known_light_is_divided_out() -> None:
    normals, color = directions(40), torch.rand(40, 3)
    bare, trust = KNOWN.albedo(color * Light().shade(normals.clone()), normals)
    torch.testing.assert_close(bare, color)
    assert torch.equal(trust, torch.ones(40))


@pytest.mark.parametrize("finish", [Finish(roughness=0.35, metallic=1.0), Finish(roughness=0.5, metallic=0.0)])
def test_what_is_mirrored_of_a_known_light_is_taken_off_in_each_view(finish: Finish) -> None:
    normals, albedo = directions(60), torch.rand(60, 3)
    to_eye = torch.nn.functional.normalize(
        normals + 0.5 * torch.stack([directions(60, seed=s) for s in (3, 4)]), dim=-1
    )
    numbers = [torch.full((60, 1), n) for n in (finish.roughness, finish.metallic)]
    seen = torch.stack([Light().polish(albedo, normals, eye, *numbers) for eye in to_eye])
    bare, trust = KNOWN.albedo(seen, normals, to_eye, finish)
    torch.testing.assert_close(bare, albedo.expand(2, 60, 3), atol=1e-3, rtol=0)
    glare = Light().polish(torch.zeros(60, 3), normals, to_eye[0], *numbers).mean(-1)
    torch.testing.assert_close(trust[0], 1 / (1 + (glare / 0.05) ** 2), atol=1e-5, rtol=0)


def test_a_rough_finish_is_divided_as_a_matt_one_and_darkness_is_not_negative() -> None:
    normals, seen = directions(20), torch.rand(1, 20, 3)
    matt, trust = KNOWN.albedo(seen, normals, normals[None], Finish(roughness=0.9, metallic=0.0))
    torch.testing.assert_close(matt, KNOWN.albedo(seen, normals)[0])
    assert torch.equal(trust, torch.ones(1, 20))
    black, _ = KNOWN.albedo(torch.zeros(1, 20, 3), normals, normals[None], Finish(roughness=0.3, metallic=0.0))
    assert torch.equal(black, torch.zeros(1, 20, 3))


def test_without_light_colours_stay_as_they_are() -> None:
    color = torch.rand(4, 3)
    assert Found(light=None, how="painted in (unlit)").albedo(color, directions(4))[0] is color


# A shared light -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [0, 1, 2])
def test_what_is_not_free_is_held_to_nothing_by_a_five_hundredth_of_the_points(free: int) -> None:
    """Two columns at right angles: each is divided by 1.002 or is not."""
    basis = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).repeat(20, 1)
    solved = _least_squares(basis, basis @ torch.tensor([3.0, 2.0]), torch.ones(40), free=free)
    assert solved.tolist() == pytest.approx([3 / (1.002 if free < 1 else 1), 2 / (1.002 if free < 2 else 1)], rel=1e-5)
    light = torch.tensor([0.0, 1.0]).repeat_interleave(20)  # the second half alone counts
    halved = _least_squares(basis, basis @ torch.tensor([3.0, 2.0]) + 5 * (1 - light), light, free=2)
    assert halved.tolist() == pytest.approx([3, 2], rel=1e-4)


def test_points_of_one_paint_weigh_as_their_light_is_sure_and_others_do_not() -> None:
    """Greys of 0.1 and 0.4 whose shades account for the difference, and a red: luminance / (luminance + 0.1).

    How alike the greys are counts for both rows; the rest is how sure each is, 1/2 and 4/5.
    """
    seen = _Paints.of(torch.tensor([[0.1] * 3, [0.4] * 3, [0.6, 0.0, 0.0]]), directions(3))
    weights = seen.kernel(seen.y, width=0.1)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert float(weights[:2, 2].max()) < 1e-4
    assert float(weights[0, 1] / weights[0, 0] * weights[1, 1] / weights[1, 0]) == pytest.approx(
        (0.8 / 0.5) ** 2, rel=1e-3
    )


@pytest.mark.parametrize("light", [Light(), OTHER], ids=["the house's", "another"])
def test_a_shared_light_is_found_up_to_its_strength(light: Light) -> None:
    normals = directions(4000)
    shade = light.shade(normals.clone())
    found = estimate_light(paints(normals) * shade, normals, torch.ones(4000))
    assert found is not None
    ratio = found.shade(normals) / shade
    ratio = ratio / ratio.mean()
    raw = shade / shade.mean()
    assert float((ratio - 1).square().mean().sqrt()) < 0.04 < 0.15 < float((raw - 1).square().mean().sqrt())


def test_it_is_as_bright_on_average_as_the_light_of_viewers() -> None:
    normals = directions(3000)
    for strength in (0.5, 0.9):
        found = estimate_light(strength * paints(normals) * OTHER.shade(normals.clone()), normals, torch.ones(3000))
        assert found is not None
        assert float(found.shade(normals).mean()) == pytest.approx(
            float(Light().shade(normals.clone()).mean()), rel=0.02
        )


def test_points_that_nobody_sees_say_nothing_of_the_light() -> None:
    normals = directions(3000)
    color, seen = paints(normals) * OTHER.shade(normals.clone()), torch.arange(3000) % 2 == 0
    spoiled = torch.where(seen[:, None], color, torch.rand(3000, 3))
    one, other = (estimate_light(c, normals, seen.float()) for c in (color, spoiled))
    assert one is not None and one == other


def test_views_without_light_are_left_alone() -> None:
    normals = directions(2000)
    noise = 0.01 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(5))
    assert estimate_light(paints(normals) + noise, normals, torch.ones(2000)) is None


def test_a_light_that_is_nearly_the_same_from_all_sides_is_none() -> None:
    normals = directions(2000)
    faint = Light(sky=0.72, ground=0.69, key=0.02)
    color = torch.tensor([0.8, 0.6, 0.4]) * faint.shade(normals.clone())
    assert estimate_light(color, normals, torch.ones(2000)) is None, "it explains all of what little there is"


def test_paints_of_one_hue_come_apart_though_the_lighter_one_is_rather_on_top() -> None:
    """White above and grey below, for the most part: one paint at first, whose light would come from the sky."""
    normals = directions(4000)
    random = torch.Generator().manual_seed(4)
    top = normals[:, 2:] + 0.5 * torch.randn(4000, 1, generator=random) > 0
    color = torch.where(top, 0.9, 0.5) * torch.ones(3) * OTHER.shade(normals.clone())
    found = estimate_light(color, normals, torch.ones(4000))
    assert found is not None
    ratio = found.shade(normals) / OTHER.shade(normals.clone())
    assert float((ratio / ratio.mean() - 1).square().mean().sqrt()) < 0.06


def test_a_colour_for_each_direction_tells_nothing() -> None:
    """A die of six hues: each face has one normal, so that its paint may be anything."""
    face = torch.randint(6, (2000,), generator=torch.Generator().manual_seed(2))
    normals = torch.cat([torch.eye(3), -torch.eye(3)])[face]
    hues = torch.tensor(
        [[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.1], [0.8, 0.1, 0.8], [0.1, 0.8, 0.8]]
    )
    assert estimate_light(hues[face] * OTHER.shade(normals.clone()), normals, torch.ones(2000)) is None
    one_hue = hues[torch.zeros_like(face)] * OTHER.shade(normals.clone())
    assert estimate_light(one_hue, normals, torch.ones(2000)) is not None, "and a die of one paint does"


def test_a_pattern_that_has_nothing_to_do_with_normals_is_no_light() -> None:
    normals = directions(2000)
    grain = 0.4 + 0.6 * torch.rand(2000, 1, generator=torch.Generator().manual_seed(3))
    assert estimate_light(torch.tensor([0.8, 0.6, 0.4]) * grain, normals, torch.ones(2000)) is None


def test_few_points_tell_nothing() -> None:
    normals = directions(29)
    color = torch.tensor([0.8, 0.6, 0.4]) * OTHER.shade(normals.clone())
    assert estimate_light(color, normals, torch.ones(29)) is None
    assert estimate_light(color, normals, torch.zeros(29)) is None


def test_the_evidence_that_is_asked_for_can_be_raised() -> None:
    normals = directions(2000)
    color = paints(normals) * OTHER.shade(normals.clone())
    assert estimate_light(color, normals, torch.ones(2000), settings=Estimate(least_explained=1.0)) is None
    assert estimate_light(color, normals, torch.ones(2000), settings=Estimate(least_apart=1.0)) is None
    with pytest.raises(InputError, match="`least_apart`"):
        Estimate(least_apart=1.5)


def test_each_choice_is_named_in_the_report() -> None:
    normals = directions(2000)
    color, sure = paints(normals) * OTHER.shade(normals.clone()), torch.ones(2000)
    assert find_light(OTHER, color, normals, sure) == Found(light=OTHER, how="known")
    shared = find_light(Estimate(), color, normals, sure)
    assert shared.how == "estimated" and isinstance(shared.light, HarmonicLight)
    unlit = Found(light=None, how="painted in (unlit)")
    assert find_light(PaintedIn(), color, normals, sure) == unlit
    assert find_light(Estimate(), paints(normals), normals, sure) == unlit
