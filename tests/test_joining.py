"""Pieces that a thin part holds together are one solid again; what is separate indeed stays so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from viewfold.scene.joining import ABOVE, FAINTEST, join_pieces

LEVEL = 0.5


def two_boxes(*, gap: int, neck: float, fog: float = 0.0) -> torch.Tensor:
    """Two boxes one above the other, a neck of one node between them, and a fog in all of the gap."""
    values = torch.zeros(24, 24, 24)
    values[2:10, 6:18, 6:18] = 1.0
    values[10 + gap : 20 + gap, 6:18, 6:18] = 1.0
    values[10 : 10 + gap, 6:18, 6:18] = fog
    values[10 : 10 + gap, 12, 12] = neck
    return values


def pieces(values: torch.Tensor) -> int:
    return label(values.numpy() > LEVEL)[1]  # type: ignore[index]


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_a_faint_neck_is_mended_where_it_is_and_nothing_else_changes(gap: int) -> None:
    values = two_boxes(gap=gap, neck=0.3, fog=0.1)
    joined = join_pieces(values, LEVEL)
    assert pieces(values) == 2 and pieces(joined) == 1
    changed = (joined != values).nonzero().tolist()
    assert changed == [[z, 12, 12] for z in range(10, 10 + gap)], "the neck alone, though fog joins them too"
    assert torch.allclose(joined[10 : 10 + gap, 12, 12], torch.tensor(ABOVE * LEVEL))


def test_what_is_separate_stays_apart() -> None:
    faint, empty, far = (
        two_boxes(gap=2, neck=0.9 * FAINTEST * LEVEL),
        two_boxes(gap=3, neck=0.0),
        two_boxes(gap=4, neck=0.4),
    )
    far[10:12] = 0.0  # its neck ends half way
    for values in (faint, empty, far):
        assert pieces(values) == 2 and torch.equal(join_pieces(values, LEVEL), values)
    whole = two_boxes(gap=2, neck=1.0)
    assert torch.equal(join_pieces(whole, LEVEL), whole)
    crumb = torch.zeros(24, 24, 24)
    crumb[2:20, 4:20, 4:20], crumb[21, 10, 10], crumb[20, 10, 10] = 1.0, 1.0, 0.4
    assert torch.equal(join_pieces(crumb, LEVEL), crumb), "crumbs are not tied to it"


def test_three_pieces_become_one() -> None:
    values = np.zeros((30, 12, 12), dtype=np.float32)
    for start in (0, 10, 20):
        values[start : start + 9, 2:10, 2:10] = 1.0
    values[9, 5, 5] = values[19, 6, 6] = 0.2
    made = torch.from_numpy(values)
    assert pieces(made) == 3 and pieces(join_pieces(made, LEVEL)) == 1
