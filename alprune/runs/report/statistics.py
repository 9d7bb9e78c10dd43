"""Curves on a common clock, times to an accuracy, and what pairs of seeds say."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alprune.runs.report.runs import Run

GAP = 0.4  # of a run: tests further apart, with untested steps between, are not joined by a line
WILCOXON_PAIRS = 6  # with fewer, its smallest p is above 0.05
_EXACT_PAIRS = 5  # up to which all resamples are enumerated, 5^5 of them
_RESAMPLES = 10_000
_LOG_MOST = 700.0  # whose exponential is a number still


@dataclass(frozen=True)
class Band:
    """The mean of several curves.

    Attributes:
        x: `(points,)` clock or labelled points.
        mean: `(points,)`, NaN where not every curve is known.
        sd: `(points,)` standard deviation (n - 1); NaN also for a single curve.
    """

    x: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean over pairs of runs with the same seed.

    Attributes:
        value: The mean; a geometric mean for ratios.
        low: Lower end of the 95% bootstrap interval; None for a single pair.
        high: Its upper end.
        pairs: How many.
        p: Of Wilcoxon's signed-rank test, two-sided; None with fewer than six pairs.
        t_low: Lower end of the 95% interval by Student's t; None for a single pair.
        t_high: Its upper end.
    """

    value: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None
    t_low: float | None = None
    t_high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval to go by, Student's t; None for a single pair."""
        return None if self.t_low is None or self.t_high is None else (self.t_low, self.t_high)


def accuracy_at(run: Run, x: np.ndarray, by_labels: bool = False) -> np.ndarray:
    """Interpolate a run's accuracy between its tests.

    The last learner is the one that is there until the run's end, so its accuracy holds until
    then; nothing is known before the first test, after the end (of an unfinished run: after its
    last test), and between tests that are not `joined`.

    Args:
        run: With tests or without.
        x: `(points,)` seconds on the clock, or labelled points.
        by_labels: Which of the two.

    Returns:
        `(points,)` accuracy from 0 to 1, NaN where it is not known.
    """
    if not len(run.tested):
        return np.full(len(x), np.nan)
    at, accuracy = run.tested[:, 1 if by_labels else 0], run.tested[:, 2]
    end = at[-1] if by_labels else known_until(run)
    values = np.interp(x, at, accuracy)
    values[(x < at[0]) | (x > end)] = np.nan
    for left, right, whole in zip(at, at[1:], joined(run), strict=False):
        if not whole:
            values[(x > left) & (x < right)] = np.nan
    return values


def joined(run: Run) -> np.ndarray:
    """Return whether each test and the next are near enough to draw a line, `(tests - 1,)`.

    They are if no step between them went untested, or if they lie at most `GAP` of the run apart.
    """
    at = run.tested[:, 0]
    first = np.searchsorted(run.fitted_s, at[:-1], side="right")
    untested = np.searchsorted(run.fitted_s, at[1:], side="left") - first
    return (untested <= 0) | (np.diff(at) <= GAP * run.elapsed_s)


def known_until(run: Run) -> float:
    """Return the time up to which the accuracy of a tested run is known."""
    return run.elapsed_s if run.ended else float(run.tested[-1, 0])


def labelled_at(run: Run, clock: np.ndarray) -> np.ndarray:
    """Return how many points were labelled at times `(points,)`; NaN after the run's end."""
    if not len(run.labelled):
        return np.full(len(clock), np.nan)
    # Those of a step are there from the end of the step before.
    step = np.searchsorted(run.ended_s, clock, side="right").clip(max=len(run.labelled) - 1)
    values = run.labelled[step].astype(float)
    values[clock > run.elapsed_s] = np.nan
    return values


def band(x: np.ndarray, curves: Sequence[np.ndarray]) -> Band:
    """Average curves `(points,)` where all of them are known."""
    values = np.stack(curves)
    sd = np.full(len(x), np.nan) if len(values) < 2 else values.std(axis=0, ddof=1)
    return Band(x, values.mean(axis=0), sd)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, s / sqrt(n); None for fewer than two values."""
    if not len(values):
        return math.nan, None
    error = None if len(values) < 2 else float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), error


def tested_enough(run: Run) -> bool:
    """Whether all tests are near enough to each other to be joined."""
    return len(run.tested) > 0 and bool(joined(run).all())


def area(run: Run, until_s: float) -> float | None:
    """Return the area under the accuracy-time curve, divided by the time: a mean accuracy.

    Until the first test there is no learner to speak of, and the accuracy counts as zero.

    Args:
        run: A run.
        until_s: The end of the area, not after the run's.

    Returns:
        From 0 to 1; None where the run ends sooner or was tested too seldom.
    """
    if not tested_enough(run) or not 0 < until_s <= known_until(run):
        return None
    at = run.tested[:, 0]
    x = np.append(at[at < until_s], until_s)
    y = np.interp(x, at, run.tested[:, 2])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / until_s)


def time_to(run: Run, accuracy: float) -> float:
    """Return when a run first reached an accuracy (0 to 1), interpolated between tests.

    Returns:
        Seconds on the clock; infinity if no test found it; NaN if it was reached somewhere
        between tests that are too far apart to say when.
    """
    at, found = run.tested[:, 0], run.tested[:, 2]
    reached = np.nonzero(found >= accuracy)[0]
    if not len(reached):
        return math.inf
    first = int(reached[0])
    if first == 0:
        return float(at[0])
    left, right = float(at[first - 1]), float(at[first])
    if not joined(run)[first - 1]:
        return math.nan
    share = (accuracy - found[first - 1]) / (found[first] - found[first - 1])
    return left + float(share) * (right - left)


def pair_up(base: Mapping[int, float], other: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the seeds that both have, `(pairs,)` each; NaN on a side drops both."""
    seeds = sorted(
        s for s in base.keys() & other.keys() if not (math.isnan(base[s]) or math.isnan(other[s]))
    )
    return np.array([base[s] for s in seeds]), np.array([other[s] for s in seeds])


def difference(base: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """Estimate by how much `{seed: value}` exceeds the baseline's; None without common seeds."""
    ours, theirs = pair_up(base, other)
    return estimate(theirs - ours) if len(ours) else None


def speed_up(base: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """Estimate how many times sooner than the baseline `{seed: seconds}` are; a geometric mean.

    Returns:
        None without common seeds, or if a run of either never got there.
    """
    ours, theirs = pair_up(base, other)
    if not len(ours) or not np.isfinite([*ours, *theirs]).all() or (theirs <= 0).any():
        return None
    if (ours <= 0).any():
        return None
    logs = estimate(np.log(ours) - np.log(theirs))
    low, high, t_low, t_high = (
        None if end is None else math.exp(max(-_LOG_MOST, min(end, _LOG_MOST)))
        for end in (logs.low, logs.high, logs.t_low, logs.t_high)
    )
    return Estimate(math.exp(logs.value), low, high, logs.pairs, logs.p, t_low, t_high)


def estimate(values: np.ndarray) -> Estimate:
    """Estimate the mean of paired differences `(pairs,)`, by a percentile bootstrap and by t.

    Up to five pairs all resamples are enumerated; above, 10,000 are drawn, always the same. Below
    some 20 pairs a percentile bootstrap covers the true mean less often than it says; Student's t,
    which takes the differences for normal, allows for the number of pairs.
    """
    pairs = len(values)
    if pairs < 2:
        return Estimate(float(values.mean()), None, None, pairs, None)
    if pairs <= _EXACT_PAIRS:
        chosen = np.array(list(itertools.product(range(pairs), repeat=pairs)))
    else:
        chosen = np.random.default_rng(0).integers(pairs, size=(_RESAMPLES, pairs))
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975], method="inverted_cdf")
    p = _wilcoxon(values) if pairs >= WILCOXON_PAIRS else None
    mean, error = mean_and_error(values.tolist())
    half = _t_quantile(pairs - 1) * (error or 0.0)
    return Estimate(mean, float(low), float(high), pairs, p, mean - half, mean + half)


def _t_quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # here: it takes a moment to import

    return float(stdtrit(freedom, 0.975))


def _wilcoxon(values: np.ndarray) -> float:
    from scipy.stats import wilcoxon  # here: it takes a second to import

    return float(wilcoxon(values).pvalue) if values.any() else 1.0
