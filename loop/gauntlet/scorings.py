"""Other ways to score the same records: the baselines and ablations that the audit is compared with.

All are conformal in the same way (:mod:`guards.drift.scores`), so all are held to the same false-block rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guards.drift.bank import Method, Scoring, StageScoring
from guards.drift.kit import DriftKit, Stage
from loop.drift.kit_components import REPLY_SLICES, SLICES

_KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Way(NamedTuple):
    """One way to score: some components of one stage."""

    stage: Stage
    method: Method
    components: tuple[str, ...]
    regress_dose: bool


def baselines(kit: DriftKit) -> dict[str, Scoring]:
    """By name, those whose components the kit has. ``mean-kl`` is the one declared beforehand for the paired
    comparison."""
    names = {component.name for component in kit.components}
    found: dict[str, _Way] = {
        "mean-kl": _max_z("outputs", [f"output.kl_mean.{one}" for one in REPLY_SLICES]),
        "update-norm": _max_z("weights", [f"relative_norm_log10.{kind}" for kind in _KINDS]),
        "cka": _max_z("activations", [f"cka.L{layer}.{one}" for layer in kit.layers for one in REPLY_SLICES]),
        "activation-difference": _max_z(
            "activations",
            [name for name in sorted(names - set(kit.dose)) if name.startswith("token_shift.")],
        ),
        "weight-spectrum": _max_z(
            "weights", ["stable_rank.all", "effective_rank.all", "top1_share.all", "spike_excess_log10.all"]
        ),
        "random-directions": _distance("activations", _directed(names, is_random=True)),
        "directions": _distance("activations", _directed(names, is_random=False)),
    }
    for dictionary in kit.dictionaries:
        found[f"fvu-{dictionary}"] = _max_z("dictionary", [f"fvu_log_ratio.{dictionary}.{one}" for one in SLICES])
        found[f"distance-{dictionary}"] = _max_z("dictionary", [f"activation_l2.{dictionary}.{one}" for one in SLICES])
        found[f"maximum-{dictionary}"] = _max_z("dictionary", [f"activation_max.{dictionary}.{one}" for one in SLICES])
    return {name: _scoring(way) for name, way in found.items() if way.components and names.issuperset(way.components)}


def ablations(scoring: Scoring) -> dict[str, Scoring]:
    """The audit without each of its stages, and with each alone."""
    found = {}
    for stage in scoring.stages:
        rest = {name: one for name, one in scoring.stages.items() if name != stage}
        if rest:
            found[f"without {stage}"] = scoring.model_copy(update={"stages": rest})
        found[f"{stage} alone"] = scoring.model_copy(update={"stages": {stage: scoring.stages[stage]}})
    return found


def _directed(names: set[str], *, is_random: bool) -> list[str]:
    return sorted(
        name
        for name in names
        if name.startswith(("last.", "proj.")) and name.split(".")[1].startswith("random") == is_random
    )


def _max_z(stage: Stage, components: Sequence[str]) -> _Way:
    return _Way(stage, "max_abs_z", tuple(components), regress_dose=False)


def _distance(stage: Stage, components: Sequence[str]) -> _Way:
    return _Way(stage, "mahalanobis", tuple(components), regress_dose=True)


def _scoring(way: _Way) -> Scoring:
    one = StageScoring(method=way.method, regress_dose=way.regress_dose, components=way.components)
    return Scoring(stages={way.stage: one})
