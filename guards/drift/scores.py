"""How unusual each of N + 1 models is among the others: stage scores, one combined score, conformal p.

``bank`` models and the candidate stand in one matrix, and every step treats its rows alike: model i is scored
against the others, and what is estimated for it (the effect of the dose, centre, scale, covariance) is
estimated without it. So permuting the models permutes their scores, and where the candidate is exchangeable
with the bank its rank is uniform: p = (1 + #{bank scores >= the candidate's}) / (N + 1) is at most a with
probability at most a, whatever the distribution and however many components there are (Vovk, Gammerman and
Shafer, Algorithmic Learning in a Random World, 2005; the transductive form). That would not hold if the bank
were standardised by itself and the candidate ranked in it.

For model i:

1. With ``regress_dose``, each component is regressed on the dose (ridge, standardised dose columns, intercept
   not penalised) over the other models, and the prediction at each model's dose is taken off.
2. Components are centred and scaled over the others: median, and 1.4826 times the median absolute deviation
   (the standard deviation where that is 0).
3. A stage's score is

   ``mahalanobis``   the distance from the others' mean under their shrunk covariance
                     (Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004, lemma 3.2 and section 3.3)
   ``max_abs_z``     the largest absolute z
   ``directed_sum``  the sum of z on each component's suspicious side, what lies on the other side as 0
   ``directed_max``  the largest z on the suspicious side
   ``max_raw``       the largest component as it was measured, on its suspicious side

4. Stage scores are standardised over the other models (median and deviation as above), and ``max`` or ``mean``
   of the stages is the combined score.

With ``leave_out: source`` steps 1 to 3 leave out also the models that share a data source with i, so that a
model is not called usual because of siblings. The candidate then counts as one without siblings: p is exact
where whole sources, and not single models, are exchangeable.

Not covered: candidates that are not exchangeable with the bank although they are harmless (other data, another
recipe), which p may call unusual; p is marginal, over banks and candidates, and not given this bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guards.drift.bank import Method, Scoring, StageScoring
from guards.drift.kit import LARGEST, Side
from guards.errors import EvidenceError

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

LEAST_OTHERS = 4
"""Fewer models say nothing about centre and scale."""
_MAD_TO_SD = 1.4826
_FURTHEST = 1e6
"""Standardised values are cut off here, so that a component that is constant in the bank keeps sums finite."""
_EQUAL = 1e-9
"""Scores that differ by less, relatively, count as equal: rounding must not decide a rank."""


@dataclass(frozen=True)
class StageColumns:
    """One stage's components of all models, [model, component], with the suspicious side of each component."""

    values: Floats
    sides: tuple[Side, ...]
    scoring: StageScoring


@dataclass(frozen=True)
class ModelScores:
    """``combined`` [model]; ``by_stage`` stage -> standardised [model]; ``z`` stage -> [model, component].

    ``z`` is on the suspicious side: larger is more unusual.
    """

    combined: Floats
    by_stage: Mapping[str, Floats]
    z: Mapping[str, Floats]


def score_models(
    stages: Mapping[str, StageColumns],
    dose: Floats,
    scoring: Scoring,
    sources: Sequence[frozenset[str]] | None = None,
) -> ModelScores:
    """Scores of all models; ``dose`` is [model, dose component], and may have no columns.

    ``sources`` are each model's data sources, read with ``leave_out: source``.

    Raises:
        EvidenceError: ``drift.not-finite``, ``drift.too-few-others``.
    """
    n_models = int(dose.shape[0])
    for values in (dose, *(stage.values for stage in stages.values())):
        if not (np.abs(values) <= 2.0 * LARGEST).all():  # also false for NaN
            raise EvidenceError("drift.not-finite", "a drift vector holds what is no number that can be reckoned with")
    others = _others(n_models, sources if scoring.leave_out == "source" else None)
    by_stage: dict[str, Floats] = {}
    z: dict[str, Floats] = {}
    for name, stage in stages.items():
        raw, z[name] = _score_stage(stage, dose, scoring.ridge, others)
        by_stage[name] = _standardised_scores(raw)
    table = np.stack(list(by_stage.values()))
    combined: Floats = table.max(axis=0) if scoring.combine == "max" else table.mean(axis=0)
    return ModelScores(combined=combined, by_stage=by_stage, z=z)


def n_at_least(scores: Floats) -> int:
    """How many of the models before the last one score at least as high as it does, up to rounding."""
    candidate = float(scores[-1])
    return int(np.count_nonzero(scores[:-1] >= candidate - _EQUAL * (1.0 + abs(candidate))))


def _others(n_models: int, sources: Sequence[frozenset[str]] | None) -> Booleans:
    """[model, other]: which others a model is scored against."""
    others: Booleans = ~np.eye(n_models, dtype=np.bool_)
    if sources is not None:
        for i, mine in enumerate(sources):
            others[i] &= np.array([not mine & its for its in sources], dtype=np.bool_)
    fewest = int(others.sum(axis=1).min()) if n_models else 0
    if fewest < LEAST_OTHERS:
        raise EvidenceError(
            "drift.too-few-others",
            "some model has too few others to be scored against",
            got=str(fewest),
            expected=f"at least {LEAST_OTHERS}",
            fix="use a larger bank, or one of more data sources",
        )
    return others


def _score_stage(stage: StageColumns, dose: Floats, ridge: float, others: Booleans) -> tuple[Floats, Floats]:
    """(score [model], z [model, component] on the suspicious side) of one stage."""
    n_models, n_components = int(stage.values.shape[0]), int(stage.values.shape[1])
    scores: Floats = np.zeros(n_models, dtype=np.float64)
    z_on_side: Floats = np.zeros((n_models, n_components), dtype=np.float64)
    regresses = stage.scoring.method != "max_raw" and stage.scoring.regress_dose and dose.shape[1] > 0
    for i in range(n_models):
        rest = others[i]
        residuals = _without_dose(stage.values, dose, rest, ridge) if regresses else stage.values
        centre, scale = _centre_and_scale(residuals[rest])
        mine: Floats = np.clip((residuals[i] - centre) / scale, -_FURTHEST, _FURTHEST)
        z_on_side[i] = _on_side(mine, stage.sides)
        if stage.scoring.method == "mahalanobis":
            theirs: Floats = np.clip((residuals[rest] - centre) / scale, -_FURTHEST, _FURTHEST)
            scores[i] = _distance(mine, theirs)
        elif stage.scoring.method == "max_raw":
            scores[i] = _on_side(stage.values[i], stage.sides).max()
        else:
            scores[i] = _from_z(stage.scoring.method, mine, z_on_side[i])
    return scores, z_on_side


def _from_z(method: Method, z: Floats, on_side: Floats) -> float:
    if method == "max_abs_z":
        return float(np.abs(z).max())
    return float(on_side.max()) if method == "directed_max" else float(np.maximum(on_side, 0.0).sum())


def _on_side(values: Floats, sides: Sequence[Side]) -> Floats:
    """Larger is more suspicious."""
    signs = np.array([{"high": 1.0, "low": -1.0, "two_sided": 0.0}[side] for side in sides])
    return np.where(signs == 0.0, np.abs(values), signs * values)


def _without_dose(values: Floats, dose: Floats, rest: Booleans, ridge: float) -> Floats:
    """[model, component]: what the regression of the models in ``rest`` on their dose leaves of each component."""
    centre, scale = _centre_and_scale(dose[rest])
    scaled: Floats = np.clip((dose - centre) / scale, -_FURTHEST, _FURTHEST)
    columns, targets = scaled[rest], values[rest]
    column_means, target_means = columns.mean(axis=0), targets.mean(axis=0)
    columns = columns - column_means
    gram = columns.T @ columns + ridge * np.eye(int(columns.shape[1]), dtype=np.float64)
    slopes = _solved(gram, columns.T @ (targets - target_means))
    return values - target_means - (scaled - column_means) @ slopes


def _centre_and_scale(values: Floats) -> tuple[Floats, Floats]:
    """Median and deviation of each column."""
    centre = _median(values)
    scale = _MAD_TO_SD * _median(np.abs(values - centre))
    floor = 1e-12 + _EQUAL * np.abs(centre)  # a column that is constant up to rounding
    scale = np.where(scale > floor, scale, values.std(axis=0))
    return centre, np.maximum(scale, floor)


def _median(values: Floats) -> Floats:
    """Of each column. By sorting, which for so few rows takes a tenth of the time of ``np.median``."""
    ordered, n = np.sort(values, axis=0), int(values.shape[0])
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])


def _distance(mine: Floats, theirs: Floats) -> float:
    """Mahalanobis distance from the mean of ``theirs`` [model, component], with Ledoit and Wolf's covariance."""
    n, d = int(theirs.shape[0]), int(theirs.shape[1])
    mean = theirs.mean(axis=0)
    centred = theirs - mean
    sample: Floats = centred.T @ centred / n
    mu = float(np.trace(sample)) / d
    if mu <= 0.0:  # the others are all alike; then the scale of z is what there is to go by
        return float(np.linalg.norm(mine - mean))
    spread = float(((sample - mu * np.eye(d, dtype=np.float64)) ** 2).sum()) / d
    squared_norms = (centred**2).sum(axis=1)
    error = max(0.0, (float((squared_norms**2).sum()) / n - float((sample**2).sum())) / (n * d))
    share = 1.0 if spread <= 0.0 else min(1.0, error / spread)
    # Never quite none: with fewer models than components the sample covariance alone has no inverse.
    share = max(share, 1e-6)
    covariance = share * mu * np.eye(d, dtype=np.float64) + (1.0 - share) * sample
    gap = mine - mean
    return float(np.sqrt(max(0.0, float(gap @ _solved(covariance, gap)))))


def _solved(matrix: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)


def _standardised_scores(raw: Floats) -> Floats:
    """Each model's stage score, standardised over all other models."""
    n_models = int(raw.shape[0])
    is_other: Booleans = ~np.eye(n_models, dtype=np.bool_)
    others_of_model: Floats = np.stack([raw[is_other[i]] for i in range(n_models)], axis=1)
    centre, scale = _centre_and_scale(others_of_model)
    return np.clip((raw - centre) / scale, -_FURTHEST, _FURTHEST)
