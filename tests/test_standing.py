"""How tall a thing is in its file, and where the file's origin lies."""

from __future__ import annotations

import pytest
import torch
from test_export import cube

from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh
from viewfold.scene.standing import Standing

BOX = cube((1.0, 0.0, 0.0), (0.1, -0.2, 0.3))  # of side 0.3: z from 0.15 to 0.45


def bounds(mesh: Mesh) -> list[list[float]]:
    return [[round(x, 5) for x in corner.tolist()] for corner in (mesh.vertices.amin(0), mesh.vertices.amax(0))]


def test_by_default_nothing_changes() -> None:
    assert Standing().apply(BOX) is BOX and Standing().undo(BOX, BOX) is BOX


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Standing(height=0.6), [[-0.1, -0.7, 0.3], [0.5, -0.1, 0.9]]),  # twice as tall, about the old origin
        (Standing(origin="base"), [[-0.15, -0.15, 0.0], [0.15, 0.15, 0.3]]),
        (Standing(origin="centre"), [[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]]),
        (Standing(height=1.5, origin="base"), [[-0.75, -0.75, 0.0], [0.75, 0.75, 1.5]]),
    ],
)
def test_height_and_origin_by_hand_and_back(asked: Standing, expected: list[list[float]]) -> None:
    made = asked.apply(BOX)
    assert bounds(made) == expected
    assert torch.equal(made.faces, BOX.faces) and made.materials is BOX.materials
    torch.testing.assert_close(asked.undo(made, BOX).vertices, BOX.vertices)


def test_vertices_that_no_face_uses_do_not_count() -> None:
    stray = Mesh(vertices=torch.cat([BOX.vertices, torch.tensor([[9.0, 9.0, -9.0]])]), faces=BOX.faces)
    made = Standing(height=1.0, origin="base").apply(stray)
    used = made.vertices[:-1]
    torch.testing.assert_close(used[:, 2].amin(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(used[:, 2].amax(), torch.tensor(1.0))


@pytest.mark.parametrize("height", [0.0, -1.0, float("nan"), float("inf")])
def test_a_height_that_is_none_is_refused(height: float) -> None:
    with pytest.raises(InputError, match="`height` must be a positive number of metres"):
        Standing(height=height)


def test_what_cannot_stand_is_refused() -> None:
    flat = Mesh(vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), faces=torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="lies flat"):
        Standing(height=1.0).apply(flat)
    assert bounds(Standing(origin="base").apply(flat)) == [[-0.5, -0.5, 0], [0.5, 0.5, 0]]
    with pytest.raises(InputError, match="at least one face"):
        Standing(origin="base").apply(Mesh(vertices=flat.vertices, faces=flat.faces[:0]))
