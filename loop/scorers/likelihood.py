"""Scores from log-likelihoods: a choice between two answers, and the quality of a text.

Every value is a mean log-likelihood per token in nats, as :meth:`guards.ports.Engine.loglik`
gives it: finite and at most 0. Anything else is ``Unscored``, never a score.

Not covered: calibration; and a choice measures which answer is likelier, not whether the
model would say it.
"""

from __future__ import annotations

import math

from guards.evidence import Outcome, Scored, Unscored

CHOICE_METRICS = ("correct", "margin_nats")
LOGLIK_METRICS = ("mean_loglik_nats", "token_probability")
# A perfectly predicted text may come out above 0 by rounding.
_ROUNDING_NATS = 1e-6


def score_choice(loglik_correct: float, loglik_wrong: float) -> Outcome:
    """``correct`` is 1 if the right answer is strictly likelier; ``margin_nats`` is by how much."""
    for name, value in (("correct", loglik_correct), ("wrong", loglik_wrong)):
        if reason := _why_unusable(value):
            return Unscored(reason=f"log-likelihood of the {name} answer {reason}")
    margin_nats = loglik_correct - loglik_wrong
    return Scored(scores={"correct": float(margin_nats > 0.0), "margin_nats": margin_nats})


def score_loglik(mean_loglik: float) -> Outcome:
    """``mean_loglik_nats``, and ``token_probability`` = exp of it.

    The latter is the geometric mean of the tokens' probabilities. It lies in [0, 1], as gates
    with bounded differences need.
    """
    if reason := _why_unusable(mean_loglik):
        return Unscored(reason=f"log-likelihood of the text {reason}")
    nats = min(mean_loglik, 0.0)
    return Scored(scores={"mean_loglik_nats": nats, "token_probability": math.exp(nats)})


def _why_unusable(value: float) -> str:
    if not math.isfinite(value):
        return f"is {value}, not a finite number"
    if value > _ROUNDING_NATS:
        return f"is {value}, above zero"
    return ""
