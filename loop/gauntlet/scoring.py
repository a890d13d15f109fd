"""How the default bank is scored: fixed on the bank and the development organisms, before any test was opened."""

from __future__ import annotations

from guards.drift.bank import Scoring, StageScoring


def default_scoring() -> Scoring:
    """The stages that decide, and how."""
    stages = {
        "weights": StageScoring(method="mahalanobis"),
        "activations": StageScoring(method="mahalanobis"),
        "outputs": StageScoring(method="mahalanobis"),
        "triggers": StageScoring(method="max_raw", regress_dose=False),
    }
    return Scoring(stages=stages)  # pyright: ignore[reportArgumentType]
