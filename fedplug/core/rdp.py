"""Rényi differential privacy of Gaussian noise on random samples, as a bound that needs no library.

A node keeps its account with this, whether or not the framework of a plan is installed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

ORDERS: tuple[int, ...] = (*range(2, 65), 72, 80, 96, 128, 160, 192, 256, 384, 512, 1024)
"""The orders at which the divergence is bounded. Each gives a bound, and the best counts."""

Steps = tuple[float, float, int]
"""``(sigma, rate, steps)``: so many steps, each on a random sample that takes everybody with probability ``rate``."""


@lru_cache(maxsize=256)
def divergence(sigma: float, rate: float, order: int) -> float:
    """The Rényi divergence of one step of the sampled Gaussian mechanism.

    Mironov, Talwar and Zhang, Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019, section 3.3, for
    whole orders ``a``: ``log(sum_k binom(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 sigma^2))) / (a - 1)``.

    Args:
        sigma: Standard deviation of the noise, in units of the largest norm of one sample's part.
        rate: Probability ``q`` with which a sample takes part, in [0, 1].
        order: ``a``, at least 2.

    Returns:
        The divergence; infinite where sigma is 0, or next to it.
    """
    if rate == 0:
        return 0.0
    if sigma * sigma == 0:
        return math.inf
    if rate >= 1:
        return order / (2 * sigma * sigma)
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + k * log_rate + (order - k) * log_rest + (k * k - k) / (2 * sigma * sigma)
        for k in range(order + 1)
    ]  # fmt: skip
    top = max(terms)
    if math.isinf(top):
        return math.inf
    return max(0.0, (top + math.log(math.fsum(math.exp(term - top) for term in terms))) / (order - 1))


def epsilon(history: Iterable[Steps], delta: float) -> float:
    """The epsilon of steps that follow each other, whatever their noise and their rates.

    Divergences of one order add up (Mironov, Rényi Differential Privacy, CSF 2017, proposition 1), and the best of all
    orders counts.

    Args:
        history: The steps, in any order.
        delta: Between 0 and 1.

    Returns:
        Epsilon, at least 0; 0 where nothing was done, infinite where no bound holds.
    """
    counts: dict[tuple[float, float], int] = {}
    for sigma, rate, steps in history:
        if steps and rate:
            counts[sigma, rate] = counts.get((sigma, rate), 0) + steps
    if not counts:
        return 0.0
    return max(0.0, min(_at(order, counts, delta) for order in ORDERS))


def _at(order: int, counts: Mapping[tuple[float, float], int], delta: float) -> float:
    # Sorted, so that the sum does not depend on the order in which the steps were told.
    spent = math.fsum(steps * divergence(sigma, rate, order) for (sigma, rate), steps in sorted(counts.items()))
    return converted(spent, order, delta)


def converted(spent: float, order: float, delta: float) -> float:
    """The epsilon that a Rényi divergence of one order comes to; it may be below 0.

    Balle et al., Hypothesis Testing Interpretations and Rényi Differential Privacy, AISTATS 2020, theorem 21:
    ``epsilon = r - (log(delta) + log(a)) / (a - 1) + log((a - 1) / a)``.

    Args:
        spent: The divergence ``r``.
        order: Its order ``a``, above 1.
        delta: Between 0 and 1.
    """
    return spent - (math.log(delta) + math.log(order)) / (order - 1) + math.log((order - 1) / order)
