"""How far a set of pictures is from another, in the features of an encoder: FID, KID, and the inception score of one.

    FID = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))             Heusel et al., NeurIPS 2017, equation 6
    KID = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)       Binkowski et al., ICLR 2018, section 2; unbiased
          with k(x, y) = (x . y / d + 1)^3
    IS  = exp(mean KL(p(class | picture) | p(class)))          Salimans et al., NeurIPS 2016, section 4

A set is a `Statistics`: sums in double precision, and for KID a sample, of the same size whatever the number of
pictures.  Those of parts are merged into those of the whole, in any order and on any number of machines.

FID is computed by torchmetrics, from these sums.  Its classes for KID and IS keep every feature and draw subsets with
the process's random numbers, so those two are written here, and held to its functions in the tests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from viewfold.errors import InputError, MissingExtraError
from viewfold.evaluation.encoder import Encoded, Encoder, encode_all
from viewfold.evaluation.source import Shown, Skip

SAMPLE = 5000
"""Pictures of a set that KID looks at, all if there are no more: 26 MB of 1280 features, 8 seconds on one core."""

ROWS = 1024
"""Of the kernel at a time; bounds memory, changes nothing else."""


@dataclass(kw_only=True, eq=False)
class Statistics:
    """What is kept of a set of pictures: some 40 MB for 1280 features, whatever their number."""

    encoder: str
    """Its name."""

    n: int = 0
    """Pictures."""

    total: Float[Tensor, "d"] | None = None
    """Sum of features; double precision, as all sums."""

    outer: Float[Tensor, "d d"] | None = None
    """Sum of f f^T."""

    classes: Float[Tensor, "k"] | None = None
    """Sum of p(class | picture), if the encoder knows any."""

    certainty: float = 0.0
    """Sum of p log p, over classes and pictures, 0 or less."""

    sides: tuple[int, int] | None = None
    """The shortest and the longest edge of a picture in pixels."""

    keys: list[Int[Tensor, "m"]] = field(default_factory=list)
    """Hashes of the names of the pictures whose features are in `sample`, in the same pieces."""

    sample: list[Float[Tensor, "m d"]] = field(default_factory=list)
    """Features of pictures drawn without regard to their order: those whose names have the lowest hashes."""

    def add(self, pictures: Sequence[Shown], encoded: Encoded) -> None:
        """Take pictures in.

        Raises:
            InputError: features of another width than before.
        """
        found, rows = _gathered(self.encoder, pictures, encoded)
        self.merge(found)
        if self.outer is None:
            self.outer = rows.new_zeros(rows.shape[1], rows.shape[1])
        self.outer.addmm_(rows.T, rows)  # in place: 13 MB anew for each batch left the heap in pieces, of 2.6 GB

    def merge(self, other: Statistics) -> None:
        """Take in what was gathered of other pictures, as if they had been added here; `other` stays as it is.

        Raises:
            InputError: another encoder made it.
        """
        if not other.n:
            return
        if self.encoder != other.encoder or (self.n and _width(self) != _width(other)):
            raise InputError(
                f"`other` must come from the same encoder; got {other.encoder} with {_width(other)} features and "
                f"classes, and {self.encoder} with {_width(self)}."
            )
        self.total = _sum(self.total, other.total)
        self.outer = _sum(self.outer, other.outer)
        self.classes = _sum(self.classes, other.classes)
        self.n, self.certainty = self.n + other.n, self.certainty + other.certainty
        sides = [each for each in (self.sides, other.sides) if each is not None]
        self.sides = (min(s[0] for s in sides), max(s[1] for s in sides)) if sides else None
        self.keys, self.sample = self.keys + other.keys, self.sample + other.sample
        if sum(len(keys) for keys in self.keys) > 2 * SAMPLE:
            self._thin()

    def features(self) -> Float[Tensor, "m d"]:
        """Return the sample that KID looks at: min(n, SAMPLE) pictures, whatever the order they came in."""
        self._thin()
        return self.sample[0]

    def _thin(self) -> None:
        keys, sample = torch.cat(self.keys), torch.cat(self.sample)
        kept = keys.argsort(stable=True)[:SAMPLE]
        self.keys, self.sample = [keys[kept]], [sample[kept]]


def _width(statistics: Statistics) -> tuple[int, int]:
    return tuple(0 if sums is None else len(sums) for sums in (statistics.total, statistics.classes))  # type: ignore[return-value]


def _sum(mine: Tensor | None, other: Tensor | None) -> Tensor | None:
    if other is None:
        return mine
    return other.clone() if mine is None else mine + other.to(mine.device)


def _gathered(encoder: str, pictures: Sequence[Shown], encoded: Encoded) -> tuple[Statistics, Float[Tensor, "b d"]]:
    """Return everything of a batch but its products, and its features in double precision."""
    features, logits = encoded.features.detach(), encoded.logits
    if features.device.type == "mps":  # it has no double precision
        features, logits = features.cpu(), None if logits is None else logits.cpu()
    rows = features.double()
    log_p = None if logits is None else logits.double().log_softmax(dim=1)
    edges = [edge for shown in pictures for edge in shown.rgb.shape[1:]]
    hashes = [hashlib.blake2b(shown.name.encode("utf-8", "surrogateescape"), digest_size=7) for shown in pictures]
    found = Statistics(
        encoder=encoder,
        n=len(rows),
        total=rows.sum(dim=0),
        classes=None if log_p is None else log_p.exp().sum(dim=0),
        certainty=0.0 if log_p is None else float((log_p.exp() * log_p).nan_to_num(0.0).sum()),
        sides=(min(edges), max(edges)),
        keys=[torch.tensor([int.from_bytes(digest.digest(), "little") for digest in hashes])],
        sample=[features.to("cpu", torch.float32, copy=True)],  # it may be a view of something larger
    )
    return found, rows


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How like true pictures some are; None where it cannot be asked."""

    encoder: str
    n: int
    n_real: int | None
    features: int
    fid: float | None
    """0 or more; 0 for the same pictures."""

    kid: float | None
    """About 0 for two samples of one distribution, and then as often below."""

    kid_error: float | None
    """Standard error of `kid` by leaving out one picture at a time, which errs on the large side."""

    inception_score: float | None
    """1 to the number of classes, of the whole set at once (papers take the mean of ten parts, which is lower)."""

    notes: tuple[str, ...]
    """What a reader must know of these numbers."""

    def figures(self) -> dict[str, float | None]:
        """Return the numbers by labels that name the encoder."""
        values = {"IS": self.inception_score}
        if self.n_real is not None:
            values = {"FID": self.fid, "KID": self.kid, "KID, standard error": self.kid_error} | values
        return {f"{what} ({self.encoder})": value for what, value in values.items()}


def gather(
    pictures: Iterable[Shown], encoder: Encoder, *, skip: Skip, seconds: dict[str, float] | None = None
) -> Statistics:
    """Show pictures to an encoder and keep their statistics; see `encode_all` for what is skipped and raised."""
    found = Statistics(encoder=encoder.name)
    for some, encoded in encode_all(pictures, encoder, skip=skip, seconds=seconds):
        found.add(some, encoded)
    sums = (found.total, found.outer, found.classes)  # off the encoder's device: they may go to another machine
    found.total, found.outer, found.classes = (None if each is None else each.cpu() for each in sums)
    return found


def measure_fidelity(made: Statistics, real: Statistics | None = None) -> Fidelity:
    """Return FID and KID of two sets, and the inception score of the first.

    Raises:
        InputError: a set of fewer than two pictures, or of another encoder.
        MissingExtraError: torchmetrics is not installed.
    """
    for name, each in (("made", made), ("real", real)):
        if each is not None and each.n < 2:
            raise InputError(
                f"`{name}` must hold at least 2 pictures that can be used; got {each.n}. A distribution of one has no "
                "width."
            )
    kid, error = (None, None) if real is None else kernel_distance(made.features(), real.features())
    return Fidelity(
        encoder=made.encoder,
        n=made.n,
        n_real=None if real is None else real.n,
        features=_width(made)[0],
        fid=None if real is None else frechet_distance(made, real),
        kid=kid,
        kid_error=error,
        inception_score=inception_score(made),
        notes=tuple(_notes(made, real)),
    )


def frechet_distance(made: Statistics, real: Statistics) -> float:
    """Return the Frechet distance of two sets, 0 or more, by torchmetrics, in double precision.

    Raises:
        InputError: a set of fewer than two pictures, or of another encoder.
        MissingExtraError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("FID needs torchmetrics: pip install 'viewfold[eval]'") from error
    if made.encoder != real.encoder or _width(made) != _width(real) or min(made.n, real.n) < 2:
        raise InputError(
            f"`real` must come from the same encoder, with 2 pictures or more in both; got {made.n} of {made.encoder} "
            f"and {real.n} of {real.encoder}."
        )
    identity, width = nn.Identity(), _width(made)[0]
    identity.num_features = width  # type: ignore[assignment]  # torchmetrics asks for it
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(torch.zeros(0, width, dtype=torch.float64), real=True)  # says the precision, adds nothing
    for kind, each in (("fake", made), ("real", real)):
        assert each.total is not None and each.outer is not None
        setattr(metric, f"{kind}_features_sum", each.total.cpu())
        setattr(metric, f"{kind}_features_cov_sum", each.outer.cpu())
        setattr(metric, f"{kind}_features_num_samples", torch.tensor(each.n))
    return max(0.0, float(metric.compute()))  # rounding may leave a little less than nothing


def kernel_distance(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> tuple[float, float | None]:
    """Return the unbiased squared distance of two samples under k(x, y) = (x . y / d + 1)^3, and its standard error.

    The error is the jackknife's: sqrt((m - 1) / m sum_i (t_i - mean t)^2), t_i without picture i, and the same of y's
    pictures; None for fewer than three of either.

    Raises:
        InputError: fewer than two of either, or features of different widths.
    """
    m, n = len(x), len(y)
    if min(m, n) < 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"`x` and `y` must be 2 or more of one width; got {tuple(x.shape)} and {tuple(y.shape)}.")
    within_x, within_y = _row_sums(x, x), _row_sums(y, y)
    x_to_y, y_to_x = _row_sums(x, y), _row_sums(y, x)
    xx, yy, xy = float(within_x.sum()), float(within_y.sum()), float(x_to_y.sum())
    value = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)
    if min(m, n) < 3:
        return value, None
    without_x = (xx - 2 * within_x) / ((m - 1) * (m - 2)) - 2 * (xy - x_to_y) / ((m - 1) * n)
    without_y = (yy - 2 * within_y) / ((n - 1) * (n - 2)) - 2 * (xy - y_to_x) / ((n - 1) * m)
    parts = [(len(t) - 1) * float(t.var(correction=0)) for t in (without_x, without_y)]
    return value, math.sqrt(sum(parts))


def _row_sums(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "m"]:
    """Return sum_j k(x_i, y_j), without j = i where both are one and the same, in double precision."""
    other, sums = y.double().T / x.shape[1], []
    for start in range(0, len(x), ROWS):
        kernel = (x[start : start + ROWS].double() @ other + 1) ** 3
        sums.append(kernel.sum(dim=1) - (kernel.diagonal(offset=start) if x is y else 0.0))
    return torch.cat(sums)


def inception_score(made: Statistics) -> float | None:
    """Return exp(mean KL(p(class | picture) | p(class))) of a whole set; None if the encoder knows no classes."""
    if made.classes is None or not made.n:
        return None
    p = made.classes / made.n
    return math.exp(max(0.0, made.certainty / made.n - float((p * p.clamp_min(1e-300).log()).sum())))


def _notes(made: Statistics, real: Statistics | None) -> list[str]:
    notes, width = [], _width(made)[0]
    sets = [made] if real is None else [made, real]
    fewest = min(each.n for each in sets)
    if real is not None and fewest <= width:
        notes.append(
            f"FID of {made.n} and {real.n} pictures is too high: {width} features need {width + 1} or more of each. "
            "Compare it only with figures of as many pictures; KID is unbiased."
        )
    if real is not None and max(made.n, real.n) > SAMPLE:
        notes.append(f"KID rests on {SAMPLE} pictures of a set, drawn by the hash of their names.")
    sides = {each.sides for each in sets}
    if len(sides) > 1 or any(each is not None and each[0] != each[1] for each in sides):
        said = ", ".join(f"{low} to {high} px" if low != high else f"{low} px" for low, high in filter(None, sides))
        notes.append(f"the pictures differ in size ({said}): the encoder resizes each, and their sharpness counts too.")
    return notes
