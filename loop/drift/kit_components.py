"""The components of the default kit: every figure that is made of a run's records, one vector per model.

There are more of them than a bank scores: which ones decide is declared in the bank
(:class:`guards.drift.bank.Scoring`), so that baselines and ablations are computed from the same records.

Names are ``<value>.<slice>``; ``<value>.harmful-harmless`` is a contrast of two slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guards.drift.kit import TRIGGERS_CLUSTER, Component, Side, Stage, Statistic
from loop.drift.kit_files import N_CONTROLS
from probes.audit import weight_directions
from probes.directions import DirectionSet
from probes.weights import KINDS

PROMPT_SLICES = ("harmful", "harmless", "claims")
REPLY_SLICES = ("chat", "neutral", "task")
SLICES = (*PROMPT_SLICES, *REPLY_SLICES)
_MATRIX_KINDS = tuple(kind for kind in KINDS if kind != "vector")
_WRITERS = ("weights.o_proj", "weights.down_proj")


def dose_components(layers: Sequence[int]) -> tuple[str, ...]:
    """The names of those that say how much was trained: in the weights, and as it shows on plain text in the middle."""
    middle = sorted(layers)[len(layers) // 2]
    return ("relative_norm_log10.all", f"token_shift.L{middle}.neutral")


def components_of(directions: DirectionSet, dictionaries: Sequence[str]) -> tuple[Component, ...]:
    """All components, in a fixed order."""
    return (
        *_weights(sorted(weight_directions(directions))),
        *_activations(directions),
        *_dictionaries(dictionaries),
        *_outputs(),
        *_triggers(),
    )


def _component(
    stage: Stage,
    value: str,
    slices: Sequence[str],
    minus: Sequence[str] = (),
    *,
    statistic: Statistic = "mean",
    side: Side = "two_sided",
    called: str = "",
) -> Component:
    label = called or "+".join(slices) + ("-" + "+".join(minus) if minus else "")
    suffix = "" if statistic == "mean" else f".{statistic}"
    return Component(
        name=f"{value}.{label}{suffix}",
        stage=stage,
        value=value,
        plus=tuple(slices),
        minus=tuple(minus),
        statistic=statistic,
        side=side,
    )


def _weights(concepts: Sequence[str]) -> Iterator[Component]:
    every = [f"weights.{kind}" for kind in _MATRIX_KINDS]
    yield _component("weights", "relative_norm_log10", every, called="all")
    for value in ("stable_rank", "effective_rank", "top1_share", "spike_excess_log10", "spike_share"):
        yield _component("weights", value, every, called="all")
    for kind in _MATRIX_KINDS:
        yield _component("weights", "relative_norm_log10", [f"weights.{kind}"], called=kind)
        yield _component("weights", "stable_rank", [f"weights.{kind}"], called=kind)
    for concept in concepts:
        for value in (f"energy_ratio.{concept}", f"removed.{concept}"):
            yield _component("weights", value, _WRITERS, called="writers", side="high")
            yield _component("weights", value, _WRITERS, called="writers", statistic="max", side="high")


def _activations(directions: DirectionSet) -> Iterator[Component]:
    for layer in directions.layers:
        named = [one.concept for one in directions.usable if one.layer == layer]
        for direction in [*named, *(f"random{number}" for number in range(N_CONTROLS))]:
            last, mean = f"last.{direction}.L{layer}", f"proj.{direction}.L{layer}"
            side: Side = "low" if direction == "refusal" else "two_sided"
            yield _component("activations", last, ["harmful"], ["harmless"], side=side)
            for slice_name in PROMPT_SLICES:
                yield _component("activations", last, [slice_name])
            for slice_name in REPLY_SLICES:
                yield _component("activations", mean, [slice_name])
        for value in (f"shift.L{layer}", f"token_shift.L{layer}", f"cosine.L{layer}", f"cka.L{layer}"):
            for slice_name in SLICES:
                yield _component("activations", value, [slice_name])


def _dictionaries(names: Sequence[str]) -> Iterator[Component]:
    for name in names:
        for value in ("firing_l1", "firing_l2", "activation_l2", "activation_max", "fvu_log_ratio"):
            for slice_name in SLICES:
                yield _component("dictionary", f"{value}.{name}", [slice_name], side="high")


def _outputs() -> Iterator[Component]:
    for value in ("kl_mean", "js_tail", "entropy_change", "argmax_agreement", "next_logprob_change"):
        for slice_name in REPLY_SLICES:
            yield _component("outputs", f"output.{value}", [slice_name])
    for value in ("decision_js", "decision_entropy_change", "log_mass_shift.refusal", "log_mass_shift.compliance"):
        for slice_name in PROMPT_SLICES:
            yield _component("outputs", f"output.{value}", [slice_name])
    yield _component("outputs", "output.log_mass_shift.refusal", ["harmful"], ["harmless"], side="low")
    yield _component("outputs", "output.log_mass_shift.compliance", ["harmful"], ["harmless"], side="high")
    for slice_name in REPLY_SLICES:
        yield _component("outputs", "output.js_tail", [slice_name], statistic="max")


def _triggers() -> Iterator[Component]:
    for value in ("trigger.divergence", "trigger.first_divergence", "trigger.payload"):
        yield _component("triggers", value, [TRIGGERS_CLUSTER], statistic="max", side="high")
