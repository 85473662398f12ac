"""Means over cases with confidence intervals that know which cases belong together. Needs the runtime alone.

The objects of an image, and the images of a patient, resemble each other: an interval that took them for independent
would be too narrow. So whole images or patients are drawn (cluster bootstrap; Davison and Hinkley, 1997, section 3.8).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where it would lie for other cases of the kind.

    Attributes:
        mean: of the defined values; NaN without any.
        low: lower end of the interval; NaN where there are fewer than two clusters to draw from.
        high: upper end.
        count: of defined values.
        undefined: count of NaN values, which the mean leaves out.
        clusters: number of images or patients that the values come from.
    """

    mean: float
    low: float
    high: float
    count: int
    undefined: int
    clusters: int


@dataclass(frozen=True)
class Cases:
    """Values of one set, and what they belong to.

    Attributes:
        values: [N], or [N, C] for C classes that are averaged over cases first and then over classes; NaN is undefined.
        clusters: [N] the image or patient of each value; None takes each for itself.
    """

    values: ArrayLike
    clusters: Sequence[Hashable] | None = None


def bootstrap_mean(
    sets: Cases | Sequence[Cases], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean with a percentile bootstrap interval.

    Args:
        sets: the cases; of several sets, the mean of their means, each set drawn anew by itself.
        resamples: how often clusters are drawn, with replacement, as many as there are.
        level: how often the interval should hold the mean.
        seed: of the draws; one seed gives one interval.

    Raises:
        ValueError: there are no sets, values and clusters do not fit, a value is infinite, or the level is not between
            0 and 1.
    """
    tables = [_Table.of(one) for one in ([sets] if isinstance(sets, Cases) else sets)]
    if not tables:
        raise ValueError("expected at least one set of cases")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected a level between 0 and 1 and at least one resample, got {level} and {resamples}")
    rng = np.random.default_rng(seed)
    mean = np.mean([table.means(np.ones((1, table.clusters)))[0] for table in tables])
    low = high = float("nan")
    if all(table.clusters > 1 for table in tables):
        drawn = np.mean([table.means(table.draw(rng, resamples)) for table in tables], axis=0)
        if not np.isnan(drawn).all():
            low, high = (float(end) for end in np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(
        mean=float(mean),
        low=low,
        high=high,
        count=sum(int(table.counts.sum()) for table in tables),
        undefined=sum(table.undefined for table in tables),
        clusters=sum(table.clusters for table in tables),
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """Sums and counts of the defined values of each cluster and class, [G, C]."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    undefined: int

    @classmethod
    def of(cls, cases: Cases) -> "_Table":
        values = np.asarray(cases.values, dtype=np.float64)
        values = values[:, None] if values.ndim == 1 else values
        names = range(len(values)) if cases.clusters is None else cases.clusters
        if values.ndim != 2 or len(values) == 0 or len(names) != len(values):
            raise ValueError(f"expected values [N] or [N, C] and N clusters, got {values.shape} and {len(names)}")
        if np.isinf(values).any():
            raise ValueError("a value is infinite: what an empty mask is worth must be finite or NaN")
        defined = ~np.isnan(values)
        rank = {name: index for index, name in enumerate(dict.fromkeys(names))}
        rows = [rank[name] for name in names]
        sums, counts = np.zeros((2, len(rank), values.shape[1]))
        np.add.at(sums, rows, np.where(defined, values, 0))
        np.add.at(counts, rows, defined)
        return cls(sums, counts, int(np.count_nonzero(~defined)))

    @property
    def clusters(self) -> int:
        return len(self.sums)

    def draw(self, rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
        """How often each cluster is taken, [R, G]."""
        taken = rng.integers(self.clusters, size=(resamples, self.clusters))
        cells = taken + self.clusters * np.arange(resamples)[:, None]
        counts = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
        return np.asarray(counts, dtype=np.float64)

    def means(self, taken: NDArray[np.float64]) -> NDArray[np.float64]:
        """[R] means, over the classes that a resample has; NaN where it has none."""
        counts = taken @ self.counts  # [R, C]
        of_classes = np.divide(taken @ self.sums, counts, out=np.zeros_like(counts), where=counts > 0)
        present = np.count_nonzero(counts, axis=1)
        means = np.full(len(taken), np.nan)
        np.divide(of_classes.sum(axis=1), present, out=means, where=present > 0)
        return means
