"""Mean, spread and paired differences over seeds, with the interval that a few runs allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of some runs.

    Attributes:
        mean: the mean.
        deviation: standard deviation (divisor n - 1); None for a single run.
        count: number of runs.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of differences of runs paired by seed, with a Student t interval.

    Attributes:
        difference: the mean.
        half_width: half-width of the interval, also the smallest significant difference; None for a single pair.
        count: number of pairs.
    """

    difference: float
    half_width: float | None
    count: int

    @property
    def is_seen(self) -> bool | None:
        """Whether the interval excludes zero; None if there is no interval."""
        return None if self.half_width is None else abs(self.difference) > self.half_width


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and standard deviation of one or more `values`."""
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(
    values: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> PairedDifference:
    """Return the mean of `values - reference`, pair by pair, with a Student t interval.

    Args:
        values: one for each seed.
        reference: of the same seeds in the same order.
        confidence: of the interval, between 0 and 1.

    Returns:
        The difference.
    """
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    count = len(differences)
    if count < 2:
        return PairedDifference(differences[0], None, count)
    half_width = student_quantile(0.5 + confidence / 2, count - 1) * stdev(differences) / math.sqrt(count)
    return PairedDifference(mean(differences), half_width, count)


def student_probability(t: float, degrees: int) -> float:
    """Return P(T <= t) of Student's distribution.

    Args:
        t: the value.
        degrees: whole number of degrees of freedom, from 1.

    Returns:
        The probability.

    Reference:
        Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    for step in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    if degrees == 1:
        total = 0.0
    central = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + central / 2


def student_quantile(probability: float, degrees: int) -> float:
    """Return the t with P(T <= t) = `probability` of Student's distribution, by bisection.

    Args:
        probability: from 0.5 to below 1.
        degrees: whole number of degrees of freedom, from 1.

    Returns:
        The quantile.
    """
    low, high = 0.0, 1.0
    while student_probability(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_probability(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def wilson_interval(correct: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, which also holds near 0 and 1.

    The interval is the uncertainty of a finite number of validation images.

    Args:
        correct: number of successes.
        total: number of trials.
        confidence: of the interval, between 0 and 1.

    Returns:
        Lower and upper end; (0, 1) for no trial.

    Reference:
        Wilson, JASA 22, 1927.
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At 0 and at 1 one bound is exact, which rounding would miss.
    return 0.0 if correct == 0 else center - half, 1.0 if correct == total else center + half
