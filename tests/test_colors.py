"""The colours of an object, a pixel at a time: what each colour weighs, what each pixel, and where counting begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from viewfold.evaluation.colors import Colors, Corpus, measure_colors

RED, GREEN, BLUE, WHITE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)


def painted(*colors: tuple[float, float, float]) -> Tensor:
    """One picture of one row, a pixel of each colour."""
    return torch.tensor(colors).T[None, :, None, :]


def measured(rgb: Tensor, coverage: Tensor | None = None) -> Colors:
    found = measure_colors(rgb, coverage=torch.ones_like(rgb[:, :1]) if coverage is None else coverage)
    assert found is not None
    return found


def test_contrast_weighs_red_green_and_blue_as_the_eye_does() -> None:
    for color, weight in ((RED, 0.2126), (GREEN, 0.7152), (BLUE, 0.0722), (WHITE, 1.0)):
        assert measured(painted(color, (0.0, 0.0, 0.0))).contrast == pytest.approx(weight / 2, rel=1e-5)
    assert measured(painted(WHITE, *[(0.0, 0.0, 0.0)] * 3)).contrast == pytest.approx((3 / 16) ** 0.5, rel=1e-5)


def test_a_pixel_counts_as_much_as_the_object_covers_it() -> None:
    covers = torch.tensor([0.75, 0.25, 0.0])[None, None, None]
    found = measured(painted((0.8, 0.4, 0.2), (0.5, 0.5, 0.5), (1.0, 0.0, 0.0)), covers)
    assert found.saturation == pytest.approx(0.75 * 0.6 / 0.8)
    assert found.clipped == 0.0, "what is burnt out beside the object does not count"
    one, other = 0.2126 * 0.8 + 0.7152 * 0.4 + 0.0722 * 0.2, 0.5
    assert found.contrast == pytest.approx(abs(one - other) * (0.75 * 0.25) ** 0.5, rel=1e-4)


def test_all_views_are_one_set_of_pixels() -> None:
    """Two plain views of different brightness have a contrast, and the one that shows more counts more."""
    rgb = torch.cat([torch.full((1, 3, 2, 2), 0.2), torch.full((1, 3, 2, 2), 0.6)])
    assert measured(rgb).contrast == pytest.approx(0.2, rel=1e-5)
    covers = torch.ones(2, 1, 2, 2)
    covers[1, :, 0, 0] = covers[1, :, 0, 1] = covers[1, :, 1, 0] = 0
    assert measured(rgb, covers).contrast == pytest.approx(0.4 * (4 / 5 * 1 / 5) ** 0.5, rel=1e-5)


def test_burnt_is_one_colour_above_and_drowned_is_all_below() -> None:
    for color, share in (
        ((0.995, 0.5, 0.5), 1.0), ((0.98, 0.98, 0.98), 0.0), ((0.009, 0.009, 0.009), 1.0), ((0.5, 0.0, 0.0), 0.0),
        ((0.015, 0.0, 0.0), 0.0), ((0.985, 0.2, 0.5), 0.0), ((0.01, 0.01, 0.01), 0.0), ((0.99, 0.5, 0.5), 0.0),
    ):  # fmt: skip
        assert measured(painted(color)).clipped == share, color


def test_black_has_no_saturation_and_noise_in_it_little() -> None:
    assert measured(painted((0.0, 0.0, 0.0))).saturation == 0.0
    assert measured(painted((0.0005, 0.0, 0.0))).saturation == pytest.approx(0.5, rel=1e-5)
    assert measured(painted((0.002, 0.001, 0.0015))).saturation == pytest.approx(0.5, rel=1e-5)


def test_a_speck_is_an_object_and_less_is_none() -> None:
    rgb, covers = torch.full((1, 3, 100, 100), 0.5), torch.zeros(1, 1, 100, 100)
    covers[..., 0, 0] = 0.9  # 0.9e-4 of the picture
    assert measure_colors(rgb, coverage=covers) is None
    covers[..., 0, 0], covers[..., 0, 1] = 1.0, 0.1
    assert measured(rgb, covers).contrast == pytest.approx(0.0, abs=1e-6)
    assert measure_colors(rgb, coverage=covers * float("nan")) is None


def test_a_corpus_of_one_says_less_equal_or_more_in_any_order_of_its_things() -> None:
    one = Colors(saturation=0.2, contrast=0.3, clipped=0.4)
    assert Corpus([one]).place(Colors(saturation=0.1, contrast=0.3, clipped=0.5)) == {
        "saturation": 0.0, "contrast": 0.5, "clipped": 1.0,
    }  # fmt: skip
    many = [Colors(saturation=s, contrast=0.0, clipped=0.0) for s in (0.9, 0.1, 0.5)]
    assert Corpus(many).place(many[2])["saturation"] == 0.5 and len(Corpus(many)) == 3
