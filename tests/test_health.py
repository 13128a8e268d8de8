"""What is wrong with a mesh: by hand, against trimesh, and against the definition taken literally."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from viewfold.data.toybox import sample_asset
from viewfold.errors import InputError
from viewfold.evaluation import health
from viewfold.evaluation.health import ATLAS, count_crossings, examine, is_closed
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.texture import unwrap


def of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(vertices=torch.from_numpy(shape.vertices).float(), faces=torch.from_numpy(shape.faces).long())


def cube(size: float = 1.0, at: float = 0.0) -> Mesh:
    box = trimesh.creation.box(extents=[size] * 3)
    return of(box.apply_translation([at] * 3))


def without(mesh: Mesh, *faces: int) -> Mesh:
    kept = torch.tensor([face not in faces for face in range(len(mesh.faces))])
    return replace(mesh, faces=mesh.faces[kept])


def plane(uv: list[list[float]], *, size: int = 64) -> Mesh:
    """A square of one unit whose two faces share no corner."""
    corners = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    texture = Texture(image=torch.zeros(size, size, 3))
    return Mesh(
        vertices=corners,
        faces=torch.arange(6).reshape(2, 3),
        uv=torch.tensor(uv),
        materials=(Material(texture=texture),),
    )


WHOLE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def test_a_cube_is_sound_however_its_corners_are_split() -> None:
    split = Mesh(vertices=cube().vertices[cube().faces].reshape(-1, 3), faces=torch.arange(36).reshape(12, 3))
    for mesh in (cube(), split):
        found = examine(mesh)
        assert found.closed and (found.n_faces, found.n_vertices, found.n_pieces) == (12, 8, 1)
        assert (found.n_degenerate, found.n_repeated, found.n_crossings) == (0, 0, 0)
        assert found.volume == pytest.approx(1.0) and found.atlas is None


def test_each_fault_is_counted_as_what_it_is() -> None:
    holed = examine(without(cube(), 3))
    assert not is_closed(without(cube(), 3))
    assert not holed.closed and holed.n_open_edges == 3 and holed.volume is None
    faces = cube().faces.clone()
    faces[5] = faces[5].flip(0)
    turned = examine(replace(cube(), faces=faces))
    assert not turned.closed and turned.n_flipped_edges == 3 and turned.n_open_edges == 0
    doubled = examine(replace(cube(), faces=torch.cat([cube().faces, cube().faces[:1].roll(1, dims=1)])))
    assert doubled.n_repeated == 1 and doubled.n_crowded_edges == 3 and not doubled.closed
    thin = torch.cat([cube().faces, torch.tensor([[0, 0, 1], [0, 1, 0]])])
    assert examine(replace(cube(), faces=thin)).n_degenerate == 2 and examine(replace(cube(), faces=thin)).closed
    nothing = examine(replace(cube(), faces=torch.tensor([[0, 0, 1], [2, 2, 2]])))
    assert (nothing.n_degenerate, nothing.closed, nothing.volume) == (2, False, None), "no face is left to close it"
    signed = replace(cube(), vertices=torch.where(cube().vertices < 0, -0.0, cube().vertices))
    other_zero = torch.cat([signed.vertices, signed.vertices + 0.0])[
        torch.cat([signed.faces[:6], signed.faces[6:] + 8])
    ]
    welded = examine(Mesh(vertices=other_zero.reshape(-1, 3), faces=torch.arange(36).reshape(12, 3)))
    assert welded.closed and welded.n_vertices == 8, "0.0 and -0.0 are one place"
    inside_out = examine(replace(cube(), faces=cube().faces.flip(1)))
    assert inside_out.closed and inside_out.volume == pytest.approx(-1.0)
    assert examine(Mesh.cat([cube(), cube(at=5.0)])).n_pieces == 2


@pytest.mark.parametrize("seed", range(6))
def test_toys_are_as_trimesh_says(seed: int) -> None:
    mesh = sample_asset(seed).mesh()
    found = examine(mesh)
    merged = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=True)
    assert is_closed(mesh) == found.closed == (merged.is_watertight and merged.is_winding_consistent)
    assert found.n_pieces == merged.body_count and found.n_vertices == len(merged.vertices)
    if found.volume is not None:
        assert found.volume == pytest.approx(float(merged.volume), rel=1e-4)


def test_parts_that_pass_through_each_other_are_counted() -> None:
    apart, touching = Mesh.cat([cube(), cube(at=3.0)]), Mesh.cat([cube(), cube(at=0.6)])
    assert examine(apart).n_crossings == 0 and (examine(touching).n_crossings or 0) > 0
    assert examine(Mesh.cat([cube(), cube(0.5)])).n_crossings == 0, "one within the other"


def test_crossings_are_those_of_all_pairs_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    places, faces = generator.random((90, 3)), np.arange(90).reshape(30, 3)
    expected = sum(crosses(places[faces[a]], places[faces[b]]) for a, b in itertools.combinations(range(len(faces)), 2))
    assert expected > 20
    assert count_crossings(places, faces) == expected
    monkeypatch.setattr(health, "PAIRS_AT_ONCE", 7)
    assert count_crossings(places, faces) == expected
    assert count_crossings(places[:, [2, 0, 1]], faces[::-1]) == expected
    monkeypatch.setattr(health, "MOST_PAIRS", 10)
    assert count_crossings(places, faces) is None


def crosses(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether an edge of one triangle meets the other: by solving for the point."""
    for first, second in ((one, other), (other, one)):
        for start, end in ((0, 1), (1, 2), (2, 0)):
            sides = np.stack([first[end] - first[start], second[0] - second[1], second[0] - second[2]], axis=1)
            t, u, v = np.linalg.solve(sides, second[0] - first[start])
            if 0 <= t <= 1 and u >= 0 and v >= 0 and u + v <= 1:
                return True
    return False


def test_an_atlas_by_hand() -> None:
    whole = examine(plane(WHOLE, size=64)).atlas
    assert whole is not None
    assert whole.coverage == pytest.approx(1.0, abs=0.01) and whole.overlap == pytest.approx(0.0, abs=0.01)
    assert whole.texels_per_unit == pytest.approx(64, rel=0.01) and whole.uneven == pytest.approx(1.0, rel=0.01)
    assert (whole.outside, whole.seams) == (0.0, 0.0)
    twice = examine(plane(WHOLE[:3] * 2)).atlas
    assert twice is not None and twice.overlap > 0.98 and twice.coverage == pytest.approx(0.5, abs=0.01)
    assert twice.seams == 1.0, "the diagonal, the only edge of two faces"
    half = [[u, 2 * v + 0.5] for u, v in WHOLE]
    left = examine(plane(half)).atlas
    assert left is not None and left.outside == 1.0
    uneven = examine(plane([[u / 4, v / 4] for u, v in WHOLE[:3]] + WHOLE[3:])).atlas
    assert uneven is not None and uneven.uneven == pytest.approx(4.0, rel=0.01)


def test_an_unwrapped_toy_lies_side_by_side() -> None:
    atlas = examine(unwrap(sample_asset(1).mesh(), size=256)).atlas
    assert atlas is not None and atlas.overlap < 0.001 and atlas.outside == 0.0
    assert 0.2 < atlas.coverage < 1.0 and atlas.uneven < 2.0 and 0 < atlas.seams < 1


def test_faces_that_lie_over_each_other_a_thousand_times_are_looked_at_more_coarsely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    rasterize = health.rasterize_uv

    def record(*given: object, size: int) -> object:
        sizes.append(size)
        return rasterize(*given, size=size)  # type: ignore[arg-type]

    monkeypatch.setattr(health, "rasterize_uv", record)
    monkeypatch.setattr(health, "MOST_TEXELS", 2**16)
    found = examine(plane(WHOLE)).atlas
    assert max(sizes) == 181 and found is not None and found.coverage == pytest.approx(1.0, abs=0.02)
    assert ATLAS == 1024


def test_what_cannot_be_examined_is_refused() -> None:
    with pytest.raises(InputError, match="at least one face"):
        examine(replace(cube(), faces=torch.zeros(0, 3, dtype=torch.long)))
    with pytest.raises(InputError, match="finite texture coordinates"):
        examine(plane([[float("inf"), 0.0], *WHOLE[1:]]))
