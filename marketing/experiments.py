"""Did it help? Two arms between which chance decided: were they cut as planned, and what is the difference, looked at on any day.

In: how many people each arm has, the mean and variance of an outcome. Out: an alarm where the arms are not as many as planned (then nothing else can be believed), the
difference with an interval that holds however often it is looked at. Knows no campaigns.
"""

from dataclasses import dataclass

import numpy as np

ALARM = 0.01  # chance of arms as uneven as these, below which nothing is told
BEST = 8.5  # (spread of effects / standard error)^2 at which the interval is narrowest, at a level of 5 %


class SampleRatio(ValueError):
    """The arms are not as many as planned; the message says how unlikely that is."""


@dataclass(frozen=True)
class Arm:
    """What came of the people of an arm."""

    people: int
    mean: float
    variance: float  # of one person's outcome

    @classmethod
    def of(cls, outcome: np.ndarray) -> "Arm":
        return cls(len(outcome), float(outcome.mean()), float(outcome.var(ddof=1)) if len(outcome) > 1 else 0.0)


@dataclass(frozen=True)
class Difference:
    """What the treatment changed, a person."""

    value: float
    error: float  # its standard error
    interval: tuple[float, float]

    @property
    def sure(self) -> bool:
        """Does the interval exclude that nothing changed?"""
        return self.interval[0] > 0 or self.interval[1] < 0


def sample_ratio(people: tuple[int, int], share: float = 0.5) -> float:
    """The chance of arms (treated, others) at least as uneven as these, where a share of the people was to be treated (chi-squared).

    Raises:
        SampleRatio: it is below ALARM.
    """
    from scipy.stats import chisquare

    total = sum(people)
    chance = float(chisquare(people, [total * share, total * (1 - share)]).pvalue)
    if chance < ALARM:
        raise SampleRatio(
            f"the arms have {people[0]:,} and {people[1]:,} people where {share:.1%} were to be treated; by chance that happens once in {1 / max(chance, 1e-300):,.0f} times: "
            f"find out who is missing before you believe any result"
        )
    return chance


def difference(
    treated: Arm, others: Arm, share: float | None = 0.5, planned: int | None = None, level: float = 0.05
) -> Difference:
    """The difference of means, with an interval that holds at all looks together: of all tests looked at on any days, at most `level` ever call a difference
    that is none (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; Johari et al., "Peeking at A/B tests", 2017).

    V is the squared standard error, tau^2 how far effects spread: half the width is sqrt(V (V + tau^2) / tau^2 (2 ln(1 / level) + ln((V + tau^2) / V))).

    Args:
        share: of the people that was to be treated; None: it is not known, and not looked at. planned: people that both arms are to have in the end, for whom the
            interval is as narrow as can be; None: as many as there are.

    Raises:
        SampleRatio: see sample_ratio.
    """
    if share is not None:
        sample_ratio((treated.people, others.people), share)
    variance = treated.variance / treated.people + others.variance / others.people
    value = treated.mean - others.mean
    if variance == 0:
        return Difference(value, 0.0, (value, value))
    spread = BEST * variance * (treated.people + others.people) / (planned or treated.people + others.people)
    half = (variance * (variance + spread) / spread * (2 * np.log(1 / level) + np.log1p(spread / variance))) ** 0.5
    return Difference(value, variance**0.5, (float(value - half), float(value + half)))


def adjusted(outcome: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Outcomes without what was known of people before the test: y - theta (x - mean of x), theta = cov(x, y) / var(x) over both arms, so that the difference stays and its
    error falls (CUPED; Deng et al., "Improving the sensitivity of online controlled experiments", 2013). (N,) all.
    """
    centred = before - before.mean()
    spread = float(centred @ centred)
    return outcome - (centred @ outcome / spread * centred if spread else 0.0)
