"""FID, KID and the inception score: exact beside references on fixed features, mergeable, bounded, honest about few."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from encoder_fakes import GivenEncoder, mean_color, named, shown
from torch import Tensor

from viewfold.errors import InputError
from viewfold.evaluation import distribution
from viewfold.evaluation.distribution import (
    Statistics,
    frechet_distance,
    gather,
    inception_score,
    kernel_distance,
    measure_fidelity,
)
from viewfold.evaluation.encoder import Encoded


def features(n: int, d: int, *, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features, as networks give them: positive, far from zero, of very different widths."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, d, dtype=torch.float64)
    return mixed @ torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3 + shift


def statistics(rows: Tensor, logits: Tensor | None = None, *, parts: int = 1) -> Statistics:
    found, pictures = Statistics(encoder="given"), named(len(rows))
    for index in torch.arange(len(rows)).chunk(parts):
        found.add([pictures[i] for i in index], Encoded(rows[index], None if logits is None else logits[index]))
    return found


def test_fid_is_that_of_a_matrix_square_root_in_double_precision() -> None:
    pytest.importorskip("torchmetrics")
    from scipy.linalg import sqrtm

    made, real = features(300, 40, seed=1), features(500, 40, seed=2, shift=0.05)
    a, b = made.numpy(), real.numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(np.asarray(sqrtm(s @ t))))
    assert frechet_distance(statistics(made, parts=7), statistics(real)) == pytest.approx(wanted, rel=1e-7)
    assert frechet_distance(statistics(made), statistics(made, parts=3)) == pytest.approx(0.0, abs=1e-6 * np.trace(s))


def test_fid_of_fewer_pictures_than_features_is_exact_as_well() -> None:
    """tr (S T)^(1/2) of singular matrices is the sum of the singular values of A B^T, of centred features."""
    pytest.importorskip("torchmetrics")
    made, real = features(20, 60, seed=1), features(30, 60, seed=2)
    a, b = ((rows - rows.mean(0)) / math.sqrt(len(rows) - 1) for rows in (made, real))
    wanted = float((made.mean(0) - real.mean(0)).square().sum() + a.square().sum() + b.square().sum())
    wanted -= 2 * float(torch.linalg.svdvals(a @ b.T).sum())
    assert frechet_distance(statistics(made), statistics(real)) == pytest.approx(wanted, rel=1e-5)


def test_fid_is_torchmetrics_own_where_it_gets_the_features_itself() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    made, real = features(80, 10, seed=1), features(90, 10, seed=2, shift=0.2)

    class Given(torch.nn.Module):
        num_features = 10

        def forward(self, rows: Tensor) -> Tensor:
            return rows

    metric = fid.FrechetInceptionDistance(feature=Given())
    metric.update(real, real=True)
    metric.update(made, real=False)
    assert frechet_distance(statistics(made), statistics(real)) == pytest.approx(float(metric.compute()), rel=1e-9)


def test_kid_is_the_unbiased_estimate_written_out() -> None:
    x, y = features(9, 5, seed=1), features(7, 5, seed=2, shift=0.1)

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 5 + 1) ** 3

    def mmd(x: Tensor, y: Tensor) -> float:
        m, n = len(x), len(y)
        within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)

    value, error = kernel_distance(x, y)
    assert value == pytest.approx(mmd(x, y), rel=1e-9)
    left_out = [
        [mmd(x[torch.arange(9) != i], y) for i in range(9)],
        [mmd(x, y[torch.arange(7) != i]) for i in range(7)],
    ]
    jackknife = math.sqrt(sum((len(t) - 1) * float(np.var(t)) for t in left_out))
    assert error == pytest.approx(jackknife, rel=1e-6)
    assert kernel_distance(x[:2], y)[1] is None
    assert kernel_distance(x, y[:2])[1] is None and kernel_distance(x[:3], y[:3])[1] is not None
    for a, b in ((x[:1], y), (x[:0], y), (x, y[:1])):
        with pytest.raises(InputError, match="2 or more of one width"):
            kernel_distance(a, b)


def test_kid_is_torchmetrics_own_on_all_pictures_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = features(50, 8, seed=1), features(50, 8, seed=2, shift=0.1)
    value, error = kernel_distance(x, y)
    assert value == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-9)
    monkeypatch.setattr(distribution, "ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx((value, error), rel=1e-12)


def test_the_error_of_kid_covers_what_other_samples_give() -> None:
    g = torch.Generator().manual_seed(0)
    drawn = [kernel_distance(torch.randn(60, 4, generator=g), torch.randn(60, 4, generator=g) + 0.3) for _ in range(60)]
    values, errors = (np.array(each, dtype=float) for each in zip(*drawn, strict=True))
    assert 0.7 < errors.mean() / values.std() < 1.6


def test_the_inception_score_by_hand() -> None:
    sure = 60.0 * torch.eye(4)
    assert inception_score(statistics(torch.zeros(4, 2), sure)) == pytest.approx(4.0), "four classes, each once, sure"
    assert inception_score(statistics(torch.zeros(4, 2), sure[[0, 0, 0, 0]])) == pytest.approx(1.0), "always the same"
    assert inception_score(statistics(torch.zeros(4, 2), torch.zeros(4, 4))) == pytest.approx(1.0), "knows nothing"
    assert inception_score(statistics(torch.zeros(4, 2))) is None, "no classes"
    logits = torch.randn(30, 6, generator=torch.Generator().manual_seed(3))
    p = logits.double().softmax(1).numpy()
    by_hand = float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))
    assert inception_score(statistics(torch.zeros(30, 2), logits, parts=4)) == pytest.approx(by_hand, rel=1e-9)
    extreme = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert inception_score(statistics(torch.zeros(2, 2), extreme)) == pytest.approx(2.0), "log 0 is no NaN"


def test_the_inception_score_is_torchmetrics_own_of_one_part() -> None:
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(3)).double()
    with pytest.warns(UserWarning, match="save all extracted features"):
        metric = inception.InceptionScore(feature=torch.nn.Identity(), splits=2)
    metric.update(logits)
    metric.splits = 1
    with pytest.warns(UserWarning, match="degrees of freedom"):  # its deviation of one part is NaN
        value, _ = metric.compute()
    assert inception_score(statistics(torch.zeros(40, 2), logits)) == pytest.approx(float(value), rel=1e-9)


def test_parts_merge_into_the_whole_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "SAMPLE", 20)
    rows, logits, pictures = features(100, 6, seed=1), torch.randn(100, 3), named(100)
    whole = statistics(rows, logits)
    for order in (range(100), reversed(range(100)), np.random.default_rng(0).permutation(100).tolist()):
        parts, merged = [], Statistics(encoder="given")
        for index in torch.tensor(list(order)).split(13):
            part = Statistics(encoder="given")
            part.add([pictures[i] for i in index], Encoded(rows[index], logits[index]))
            parts.append(pickle.loads(pickle.dumps(part)))
        for part in parts:
            merged.merge(part)
        assert merged.n == 100 and merged.sides == (2, 2)
        for name in ("total", "outer", "classes"):
            assert torch.allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=0)
        assert merged.certainty == pytest.approx(whole.certainty)
        assert torch.equal(merged.features(), whole.features()) and len(whole.features()) == 20
    with pytest.raises(InputError, match="same encoder"):
        whole.merge(Statistics(encoder="other", n=1))
    with pytest.raises(InputError, match="same encoder"):
        whole.add(pictures[:2], Encoded(torch.zeros(2, 5)))


def test_what_is_taken_in_is_a_copy() -> None:
    """An encoder may write its next features where these are, and a part is merged into more than one whole."""
    rows, pictures, part = torch.rand(4, 3), named(8), Statistics(encoder="given")
    part.add(pictures[:4], Encoded(rows, rows))
    kept, whole = pickle.loads(pickle.dumps(part)), Statistics(encoder="given")
    whole.merge(part)
    whole.add(pictures[4:], Encoded(rows + 1, rows))
    rows.zero_()
    for name in ("total", "outer", "classes"):
        assert torch.equal(getattr(part, name), getattr(kept, name))
    assert torch.equal(part.features(), kept.features()) and (part.n, whole.n) == (4, 8)
    before = pickle.dumps(whole)
    whole.merge(Statistics(encoder="other"))
    assert pickle.dumps(whole) == before, "of nothing nobody asks who made it"


def test_no_more_than_two_samples_are_kept_whatever_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "SAMPLE", 10)
    whole, pictures, kept = Statistics(encoder="given"), named(75), []
    for first in range(0, 75, 5):
        part = Statistics(encoder="given")
        part.add(pictures[first : first + 5], Encoded(torch.rand(5, 2)))
        whole.merge(part)
        kept.append(sum(len(keys) for keys in whole.keys))
    assert kept == [5, 10, 15, 20, *[10, 15, 20] * 3, 10, 15], "drawn anew at 25, not each time"
    assert whole.n == 75 and sum(len(rows) for rows in whole.sample) == 15 and len(whole.features()) == 10


def test_each_figure_is_its_own() -> None:
    pytest.importorskip("torchmetrics")
    rows, logits = features(30, 4, seed=1), torch.randn(30, 3, generator=torch.Generator().manual_seed(3))
    made, real = statistics(rows, logits), statistics(features(20, 4, seed=2, shift=0.1), logits[:20].flip(0))
    kid, error = kernel_distance(made.features(), real.features())
    found = measure_fidelity(made, real)
    assert (found.kid, found.kid_error) == (kid, error) and found.fid == frechet_distance(made, real)
    assert found.inception_score == inception_score(made) != inception_score(real)
    assert list(found.figures().values()) == [found.fid, kid, error, found.inception_score]
    assert (found.encoder, found.n, found.n_real, found.features) == ("given", 30, 20, 4)
    alone = measure_fidelity(made)
    assert (alone.fid, alone.kid, alone.kid_error, alone.n_real) == (None, None, None, None)
    assert alone.figures() == {"IS (given)": found.inception_score}


def test_the_sample_is_drawn_from_all_pictures_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "SAMPLE", 500)
    rows = torch.arange(4000.0)[:, None]
    kept = statistics(rows, parts=40).features()[:, 0]
    assert len(kept) == 500 and abs(float(kept.mean()) - 2000) < 4 * 4000 / math.sqrt(12 * 500)
    assert len(torch.histc(kept, bins=10, min=0, max=4000).nonzero()) == 10


def test_what_is_kept_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "SAMPLE", 50)

    def held(n: int) -> int:
        found = gather(shown(n), GivenEncoder(mean_color, mean_color), skip=pytest.fail)
        return len(pickle.dumps(found))

    assert held(2000) < 1.5 * held(200)


def test_pictures_of_one_size_go_together_and_others_by_themselves() -> None:
    encoder, spent = GivenEncoder(mean_color), {"reading": 100.0}
    mixed = [*shown(40), *shown(20, size=6, name="q"), *shown(5, name="r")]
    found = gather(mixed, encoder, skip=pytest.fail, seconds=spent)
    assert spent["reading"] > 100 and 0 < spent["encoder"] < 100
    assert found.n == 65 and found.sides == (4, 6)
    assert sorted(shape[0] for shape in encoder.shapes) == [1, 12, 20, 32] and sum(s[0] for s in encoder.shapes) == 65
    assert found.total is not None
    assert torch.allclose(found.total, sum((s.rgb.mean(dim=(1, 2)) for s in mixed), torch.zeros(3)).double(), atol=1e-5)


def test_pictures_of_no_use_are_named_and_the_others_count() -> None:
    pictures = shown(4)
    for index, value in ((1, math.nan), (2, math.inf), (3, -0.5)):
        pictures[index].rgb[0, 0, 0] = value
    said: list[tuple[str, str]] = []
    found = gather(pictures, GivenEncoder(mean_color), skip=lambda name, why: said.append((name, why)))
    assert found.n == 1 and [name for name, _ in said] == ["p1", "p2", "p3"]
    assert all("[0, 1]" in why for _, why in said)


def test_an_encoder_that_gives_nan_or_another_shape_is_refused() -> None:
    for wrong in (lambda rgb: rgb.mean(dim=(2, 3)) * math.nan, lambda rgb: rgb, lambda rgb: rgb[:1, :, 0, 0]):
        with pytest.raises(InputError, match="finite features"):
            gather(shown(3), GivenEncoder(wrong), skip=pytest.fail)
    with pytest.raises(InputError, match="finite logits"):
        gather(shown(3), GivenEncoder(mean_color, lambda rgb: mean_color(rgb) / 0), skip=pytest.fail)


def test_notes_begin_where_a_figure_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(distribution, "SAMPLE", 40)
    encoder = GivenEncoder(mean_color, lambda rgb: rgb[:, 0, 0])  # three features, four classes
    sets = {n: gather(shown(n), encoder, skip=pytest.fail) for n in (3, 4, 40, 41)}

    def notes(made: int, real: int) -> list[str]:
        return [note.partition(":")[0] for note in measure_fidelity(sets[made], sets[real]).notes]

    assert notes(4, 40) == notes(40, 4) == [] and measure_fidelity(sets[3]).notes == ()
    assert notes(3, 40) == ["FID of 3 and 40 pictures is too high"]
    assert notes(40, 3) == ["FID of 40 and 3 pictures is too high"]
    drawn = ["KID rests on 40 pictures of a set, drawn by the hash of their names."]
    assert notes(41, 40) == notes(40, 41) == drawn
    found = measure_fidelity(sets[4], sets[41])
    assert (found.n, found.n_real, found.features) == (4, 41, 3)
    assert measure_fidelity(sets[41]).notes == (), "without true pictures there is neither FID nor KID"


def test_fid_of_other_encoders_widths_or_one_picture_is_refused() -> None:
    pytest.importorskip("torchmetrics")
    rows = features(5, 3, seed=1)
    good, other, narrow = statistics(rows), statistics(rows), statistics(rows[:, :2])
    other.encoder = "other"
    for wrong in (other, narrow, statistics(rows, rows), statistics(rows[:1])):
        for pair in ((good, wrong), (wrong, good)):
            with pytest.raises(InputError, match="same encoder, with 2 pictures"):
                frechet_distance(*pair)
    assert frechet_distance(good, good) >= 0 and frechet_distance(good, statistics(rows[:2])) > 0


def test_few_pictures_say_so_and_one_is_refused() -> None:
    pytest.importorskip("torchmetrics")
    encoder = GivenEncoder(mean_color, mean_color)
    many, few = (gather(shown(n), encoder, skip=pytest.fail) for n in (40, 3))
    assert measure_fidelity(many, many).notes == ()
    found = measure_fidelity(few, many)
    assert found.fid is not None and "too high" in found.notes[0] and "3 features need 4" in found.notes[0]
    assert list(found.figures()) == ["FID (given)", "KID (given)", "KID, standard error (given)", "IS (given)"]
    larger = gather(shown(40, size=8), encoder, skip=pytest.fail)
    assert "differ in size (4 px, 8 px)" in measure_fidelity(many, larger).notes[0]
    mixed = gather([*shown(40), *shown(1, size=6, name="q")], encoder, skip=pytest.fail)
    assert "differ in size (4 to 6 px)" in measure_fidelity(mixed).notes[0]
    one = gather(shown(1), encoder, skip=pytest.fail)
    for made, real in ((one, many), (many, one), (one, None), (Statistics(encoder="given"), many)):
        with pytest.raises(InputError, match="at least 2 pictures"):
            measure_fidelity(made, real)
    alone = measure_fidelity(many)
    assert alone.fid is None and list(alone.figures()) == ["IS (given)"]
