"""How well one number per text tells two kinds of text apart: AUROC with a 95% interval.

AUROC is the Mann-Whitney estimate of P(positive > negative), ties counted half. The interval is method 5 of
Newcombe 2006 (Statistics in Medicine 25:559-573): the values of theta whose distance from the estimate is at most
z standard errors *under theta*, with the variance of Hanley and McNeil 1982 (Radiology 143:29-36) and both sample
sizes in it replaced by their mean. Unlike DeLong's interval and a bootstrap it does not shrink to a point where
the separation is perfect, which is just where a small sample promises most.

It takes the two samples for independent. Here they are pairs on one subject, whose scores go up and down
together; that makes the estimate vary less than is assumed, so the interval errs to the wide side. Not covered:
pairs that depend on each other (several on one topic), and texts unlike those that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from scipy import optimize, stats

from guards.errors import ProbeError
from guards.evidence import Frozen

_Z_95 = float(stats.norm.ppf(0.975))


class Separation(Frozen):
    """AUROC of ``n_pairs`` positives against as many negatives. The interval is recomputed, never stored."""

    auroc: float = Field(ge=0, le=1, allow_inf_nan=False)
    n_pairs: int = Field(ge=2)

    @property
    def lower(self) -> float:
        """Lower end of the 95% interval."""
        return newcombe_interval(self.auroc, self.n_pairs, self.n_pairs)[0]

    @property
    def upper(self) -> float:
        """Upper end of the 95% interval."""
        return newcombe_interval(self.auroc, self.n_pairs, self.n_pairs)[1]


def measure_separation(score_pair_side: torch.Tensor) -> Separation:
    """Separation of scores ``[pair, side]``, the positive side first.

    Raises:
        ProbeError: ``separation.bad-scores`` (another shape, fewer than two pairs, NaN or infinity).
    """
    if score_pair_side.ndim != 2 or score_pair_side.shape[1] != 2 or score_pair_side.shape[0] < 2:
        raise ProbeError(
            "separation.bad-scores",
            "not the scores of pairs",
            got=f"shape {list(score_pair_side.shape)}",
            expected="[pair, 2] with at least two pairs",
        )
    return Separation(auroc=auroc(score_pair_side[:, 0], score_pair_side[:, 1]), n_pairs=score_pair_side.shape[0])


def auroc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """P(positive > negative) + P(equal) / 2 over all combinations of two samples, each of one axis.

    Raises:
        ProbeError: ``separation.bad-scores`` (an empty sample, NaN or infinity).
    """
    if min(len(positive), len(negative)) == 0 or not bool(torch.isfinite(torch.cat([positive, negative])).all()):
        raise ProbeError("separation.bad-scores", "scores that cannot be ranked", expected="some finite numbers a side")
    difference = positive.double()[:, None] - negative.double()[None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def hanley_mcneil_variance(theta: float, n_positive: int, n_negative: int, *, mean_sizes: bool) -> float:
    """Variance of an estimated AUROC whose true value is ``theta``; with ``mean_sizes`` Newcombe's variant of it."""
    first, second = n_positive - 1.0, n_negative - 1.0
    if mean_sizes:
        first = second = (n_positive + n_negative) / 2 - 1.0
    spread = 1 + first * (1 - theta) / (2 - theta) + second * theta / (1 + theta)
    return theta * (1 - theta) * spread / (n_positive * n_negative)


def newcombe_interval(estimate: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """The 95% interval of method 5 (lower, upper)."""

    def excess(theta: float) -> float:
        variance = hanley_mcneil_variance(theta, n_positive, n_negative, mean_sizes=True)
        return abs(theta - estimate) - _Z_95 * math.sqrt(variance)

    lower = 0.0 if estimate == 0.0 else _root(excess, 0.0, estimate)
    upper = 1.0 if estimate == 1.0 else _root(excess, 1.0, estimate)
    return lower, upper


def _root(excess: Callable[[float], float], outer: float, estimate: float) -> float:
    """Where ``excess`` changes sign between ``outer``, where it is positive, and the estimate."""
    # At an estimate of exactly 0 or 1 the variance is zero, and the excess too: begin a little inside.
    inner = estimate + (outer - estimate) * 1e-9
    root: Any = optimize.brentq(excess, outer, inner)  # annotated as a pair too, which it is only if asked for
    return float(root)
