"""95 % confidence intervals of shares, means, ratios of means and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viewfold.errors import InputError

Z95 = 1.959964
"""Half-width of a 95 % interval of the standard normal distribution."""

RESAMPLES = 4000

AT_ONCE = 2**20
"""Numbers drawn in one go, at least one resample; bounds memory, changes nothing else."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Independent measurements that it rests on."""

    def percent(self) -> str:
        """Return "81.7 % (70.1 to 89.4)"."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def share(hits: Sequence[bool]) -> Figure:
    """Return the share of hits p with Wilson's score interval (1927): good for few trials and shares near 0 and 1.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   z = 1.96
    """
    n = _count(hits, "hits")
    p = sum(hits) / n
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return Figure(value=p, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)


def mean(values: Sequence[float], *, seed: int = 0) -> Figure:
    """Return the mean with a percentile bootstrap over the measurements."""
    _count(values, "values")
    drawn = _resampled_means(values, seed)
    return _figure(float(np.mean(values)), drawn, len(values))


def ratio(values: Sequence[float], reference: Sequence[float], *, seed: int = 0) -> Figure:
    """Return mean(values) / mean(reference), both resampled, independently of each other."""
    _count(values, "values")
    _count(reference, "reference")
    if not np.mean(reference) > 0:
        raise InputError("`reference` must have a positive mean; got 0 or less.")
    drawn = _resampled_means(values, seed) / np.maximum(_resampled_means(reference, seed + 1), 1e-9)
    return _figure(float(np.mean(values) / np.mean(reference)), drawn, len(values))


def paired_difference(values: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Figure:
    """Return mean(values - others) over the same subjects, resampled together; clear of 0 means a real difference."""
    if len(values) != len(others):
        raise InputError(f"`others` must pair with `values`; got {len(others)} for {len(values)}.")
    return mean([float(a) - float(b) for a, b in zip(values, others, strict=True)], seed=seed)


def _count(values: Sequence[object], name: str) -> int:
    if not values:
        raise InputError(f"`{name}` must hold at least one measurement; it is empty.")
    return len(values)


def _resampled_means(values: Sequence[float], seed: int) -> np.ndarray:
    array, dice = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    step = max(1, AT_ONCE // len(array))
    counts = [min(step, RESAMPLES - first) for first in range(0, RESAMPLES, step)]
    return np.concatenate([array[dice.integers(len(array), size=(n, len(array)))].mean(axis=1) for n in counts])


def _figure(value: float, drawn: np.ndarray, n: int) -> Figure:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(value=value, low=float(low), high=float(high), n=n)
