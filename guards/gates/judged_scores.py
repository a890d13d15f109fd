"""Scores that a fallible judge gave: what its errors do to a claim.

A judge calls a positive output positive with probability ``se`` (sensitivity), and a negative one
negative with ``sp`` (specificity). With J = se + sp - 1, a true rate p is seen as
``p se + (1 - p)(1 - sp) = (1 - sp) + J p``, and a true difference D as ``J D``. Both are bounded by what
the judge said about labelled outputs (Clopper-Pearson). The look's alpha is split, so that the three
chances of error add up to it at most:

* 1/10 for each of the two bounds that the claim rests on,
* 8/10 for the test of the observed scores.

=======================  =============================================================  =======================
claim                    the null, observed                                             uses
=======================  =============================================================  =======================
non_inferior_within m    D <= -m, so the observed mean is at most ``-m J_lo``           se_lo, sp_lo
superior_by m            D <= m, so it is at most ``m`` (J <= 1)                        se_lo, sp_lo (J_lo > 0)
at_least L               p <= L, so at most ``L se_hi + (1 - L)(1 - sp_lo)``            se_hi, sp_lo
at_most L                p >= L, so at least ``L se_lo``                                se_lo
=======================  =============================================================  =======================

An unscored item counts as the worst outcome there is, observed and true, which keeps every line true.
Metrics that count the judge's negatives exchange se and sp.

Not covered: a judge that errs more often on one of the two checkpoints than on the other, or on these
outputs than on the labelled ones (another family, another kind of prompt). Nothing here can see that;
``family`` says what the labels were given for.
"""

from __future__ import annotations

from dataclasses import dataclass

from guards.errors import EvidenceError
from guards.policy import EvalGate, Judge
from guards.statistics import clopper_pearson_lower, clopper_pearson_upper

PART_OF_BOUND = 0.1
PART_OF_TEST = 0.8


@dataclass(frozen=True)
class JudgeBounds:
    """A judge's rates in the metric's own direction: ``sensitivity`` is about what the metric counts.

    ``..._low`` and ``..._high`` are one-sided bounds, each at confidence ``1 - alpha / 10``.
    """

    family: str
    alpha_of_test: float
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    specificity: float
    specificity_low: float

    @property
    def j(self) -> float:
        """Estimate of J."""
        return self.sensitivity + self.specificity - 1.0

    @property
    def j_low(self) -> float:
        return self.sensitivity_low + self.specificity_low - 1.0

    @property
    def details(self) -> dict[str, str]:
        """For readers of a verdict."""
        return {
            "judge_family": self.family,
            "judge_sensitivity": f"{self.sensitivity:.4f}, at least {self.sensitivity_low:.4f}",
            "judge_specificity": f"{self.specificity:.4f}, at least {self.specificity_low:.4f}",
            "alpha_of_test": f"{self.alpha_of_test:.6g}",
        }

    def observed_null(self, gate: EvalGate) -> float:
        """The null of the gate's claim, as the judge would see it: a mean difference, or a rate."""
        if gate.level is not None:
            if gate.claim == "at_most":
                return gate.level * self.sensitivity_low
            return gate.level * self.sensitivity_high + (1.0 - gate.level) * (1.0 - self.specificity_low)
        margin = gate.margin or 0.0
        return margin if gate.claim == "superior_by" else -margin * self.j_low

    def true_bound(self, gate: EvalGate, observed_bound: float) -> float:
        """The bound on the true rate or difference; it clears the claim exactly where the observed one does."""
        if gate.claim == "at_most":
            return min(1.0, observed_bound / self.sensitivity_low)
        if gate.claim == "at_least":
            false_positives = 1.0 - self.specificity_low
            return min(1.0, max(0.0, (observed_bound - false_positives) / (self.sensitivity_high - false_positives)))
        return max(-1.0, observed_bound / self.j_low) if observed_bound < 0.0 else observed_bound

    def true_estimate(self, gate: EvalGate, observed: float) -> float:
        """Rogan and Gladen's estimate (1978) of the true rate, or the true difference."""
        if gate.is_paired:
            return max(-1.0, min(1.0, observed / self.j))
        return max(0.0, min(1.0, (observed - (1.0 - self.specificity)) / self.j))


def judge_bounds(judge: Judge, alpha: float) -> JudgeBounds:
    """What is known of the judge at a look's ``alpha``.

    Raises:
        EvidenceError: ``gate.judge-too-weak``: a lower bound is below the declared minimum, or the
            judge is not shown to be better than guessing, or nothing is known for the family.
    """
    known = judge.calibration.get(judge.family)
    if known is None:
        raise EvidenceError("gate.judge-too-weak", f"nothing is known of the judge on outputs of {judge.family!r}")
    part = alpha * PART_OF_BOUND
    sensitivity_low = clopper_pearson_lower(known.detected, known.positives, part)
    specificity_low = clopper_pearson_lower(known.cleared, known.negatives, part)
    for name, low, least in (
        ("sensitivity", sensitivity_low, judge.min_sensitivity),
        ("specificity", specificity_low, judge.min_specificity),
    ):
        if low < least:
            raise _too_weak(judge, name, low, f"at least {least:g}", part)
    if sensitivity_low + specificity_low <= 1.0:
        total = sensitivity_low + specificity_low
        raise _too_weak(judge, "sensitivity and specificity together", total, "more than 1, as guessing has", part)
    positives = (
        known.detected / known.positives,
        sensitivity_low,
        clopper_pearson_upper(known.detected, known.positives, part),
    )
    negatives = (
        known.cleared / known.negatives,
        specificity_low,
        clopper_pearson_upper(known.cleared, known.negatives, part),
    )
    counted, other = (positives, negatives) if judge.measures == "positive" else (negatives, positives)
    return JudgeBounds(
        family=judge.family,
        alpha_of_test=alpha * PART_OF_TEST,
        sensitivity=counted[0],
        sensitivity_low=counted[1],
        sensitivity_high=counted[2],
        specificity=other[0],
        specificity_low=other[1],
    )


def _too_weak(judge: Judge, what: str, low: float, expected: str, part: float) -> EvidenceError:
    return EvidenceError(
        "gate.judge-too-weak",
        f"the judge's {what} on outputs of {judge.family!r} is not shown to be high enough",
        got=f"at least {low:.4f} at {100.0 * (1.0 - part):.5g}% confidence",
        expected=expected,
        fix="label more outputs of this family, or use a better judge",
    )
