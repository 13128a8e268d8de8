"""The grids of an encoding, counted by hand, and the levels that it looks up."""

from __future__ import annotations

import pytest
import torch

from viewfold.errors import InputError
from viewfold.scene.hashgrid import HashEncoding, HashSettings, LevelGrowth

THREE = HashSettings(levels=3, features=2, log2_rows=10, base=4, growth=2.0)
"""5^3, 9^3 and 17^3 nodes, of which 1024 rows at most are kept."""


def test_mvdreams_grids_end_at_4097_cells_and_tables_at_half_a_million_rows() -> None:
    released = HashSettings()
    assert [released.resolution(level) for level in (0, 1, 15)] == [16, 23, 4097]
    lattices = released.lattices()
    assert [lattice.rows for lattice in lattices[:2]] == [17**3, 24**3] and lattices[15].rows == 2**19
    assert len(lattices) == 16


def test_grids_lie_one_after_the_other_in_the_table() -> None:
    found = [(lattice.resolution, lattice.first, lattice.rows) for lattice in THREE.lattices()]
    assert found == [(4, 0, 125), (8, 125, 729), (16, 854, 1024)]
    assert HashEncoding(THREE).table.shape == (2, 1878)


def test_features_begin_nearly_zero_even_and_different_at_each_level() -> None:
    table, again = (HashEncoding(THREE).table.detach() for _ in range(2))
    assert torch.equal(table, again)
    fine = table[:, 854:]
    assert float(fine.max()) == pytest.approx(1e-4, rel=0.01) and float(fine.min()) == pytest.approx(-1e-4, rel=0.01)
    assert float(fine.std()) == pytest.approx(1e-4 / 3**0.5, rel=0.03) and float(fine.mean().abs()) < 5e-6
    assert not torch.equal(table[:, :125], table[:, 125:250])


def test_levels_are_dropped_and_added_behind_those_that_stay() -> None:
    made = HashEncoding(THREE)
    first = made.table.detach().clone()
    with torch.no_grad():
        made.table += 1
    for levels, rows in ((2, 854), (1, 125), (3, 1878)):
        made.resize(levels)
        assert (made.held, made.active, made.table.shape[1]) == (levels, levels, rows)
        assert made(torch.rand(5, 3)).shape == (5, 2 * levels)
    assert made.table.requires_grad
    torch.testing.assert_close(made.table[:, :125], first[:, :125] + 1)
    assert torch.equal(made.table[:, 125:], first[:, 125:]), "what was dropped begins as it began"
    for levels in (0, 4):
        with pytest.raises(InputError, match="`levels` must lie between 1 and 3"):
            made.resize(levels)


def test_only_active_levels_are_looked_up_and_a_slope_is_what_a_small_step_changes() -> None:
    made = HashEncoding(THREE).double()
    with torch.no_grad():
        made.table.copy_(torch.randn(made.table.shape, generator=torch.Generator().manual_seed(0)))
    at = 0.05 + 0.9 * torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    every = made(at)
    made.active = 2
    assert torch.equal(made(at), every[:, :4])
    features, slope = made.with_slope(at)
    torch.testing.assert_close(features, every[:, :4])
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-7
        torch.testing.assert_close(slope[:, axis], (made(at + step) - made(at - step)) / 2e-7, rtol=1e-4, atol=1e-4)


def test_levels_join_every_so_many_steps() -> None:
    growth = LevelGrowth()
    assert [growth.at(step) for step in (0, 2000, 2499, 2500, 2999, 3000, 6000)] == [8, 8, 8, 9, 9, 10, 16]


@pytest.mark.parametrize(
    ("kind", "wrong", "named"),
    [
        (HashSettings, {"levels": 33}, "`levels` must lie between 1 and 32"),
        (HashSettings, {"features": 9}, "`features` must lie between 1 and 8"),
        (HashSettings, {"log2_rows": 25}, "`log2_rows` must lie between 3 and 24"),
        (HashSettings, {"base": 0}, "`base` must lie between 1"),
        (HashSettings, {"growth": 0.9}, "`growth` must lie between 1"),
        (HashSettings, {"levels": 20, "growth": 2.0}, "`levels` must end at 1048576 cells or fewer; got 8388608"),
        (LevelGrowth, {"start": 0}, "`start` and `every` must"),
        (LevelGrowth, {"first_step": -1}, "`start` and `every` must"),
        (LevelGrowth, {"every": 0}, "`start` and `every` must"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind: type, wrong: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        kind(**wrong)
