"""Stopping the evaluation of a suite early (``looks.stop_early``), and what a partial run may say.

A suite is answered block by block, by all checkpoints alike. After each block :func:`settled_suites`
says where every gate's verdict is certain (:func:`certain_stop`); there the rest need not be answered. The
gates then read a partial run, and :func:`judge_partial` gives the verdict that is certain, or none. So
nobody gains by leaving items out: what was not answered counts as whatever harms the claim most, and also
as whatever helps it most.

Gates that are no tests (collapse, contamination) read whole runs only, so their suites are never
stopped early; nor are those of a gate whose items are grouped by a tag, which unanswered items lack; nor
those of a gate against an anchor: the bound of its pass decides whether the candidate becomes the anchor,
and a certain verdict has none. So whatever stops early, anchors move as without it.

Not covered: a run that says that it is whole and is not. What a step wrote is bound by its manifest and
by the log, and ``stairlock reproduce`` repeats it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from guards.errors import EvidenceError, StairlockError
from guards.gates.certainty import Stop, certain_outcome
from guards.gates.eval_table import table_for
from guards.gates.inputs import GateInputs
from guards.gates.look_alpha import alpha_of_gate
from guards.gates.score_table import TAG, ScoreTable
from guards.gates.table_verdict import tested_values, threshold
from guards.gates.verdict import Verdict
from guards.policy import EvalGate, Judge, LeafGate, Policy, suites_of
from guards.statistics import mean_of

ANSWERED_DETAIL, DRAWN_DETAIL, SAVED_DETAIL = "items_answered", "items_drawn", "items_saved"
"""Where a verdict's ``details`` say how many items of its suite were answered, drawn and left out."""


def stoppable_suites(policy: Policy) -> frozenset[str]:
    """Names of the suites that may be stopped early; none where the policy does not say ``stop_early``."""
    if policy.looks.stop_early is None:
        return frozenset()
    read_by: dict[str, list[LeafGate]] = defaultdict(list)
    for gate in policy.leaf_gates():
        for suite in suites_of(gate):
            read_by[suite].append(gate)
    return frozenset(suite for suite, gates in read_by.items() if all(_may_read_a_part(gate) for gate in gates))


def settled_suites(inputs: GateInputs) -> frozenset[str]:
    """Those of the stoppable suites on which every gate's verdict is certain by the runs so far.

    A gate that refuses what it is given is not certain of anything: its suite goes on.
    """
    policy = inputs.policy.policy
    gates = [gate for gate in policy.leaf_gates() if isinstance(gate, EvalGate)]
    return frozenset(
        suite
        for suite in stoppable_suites(policy)
        if all(_is_certain(gate, inputs) for gate in gates if gate.suite == suite)
    )


def certain_stop(gate: EvalGate, table: ScoreTable, alpha: float, *, judge: Judge | None = None) -> Stop | None:
    """The verdict that the table has whatever its pending items score, or whether they score at all.

    With one exception, which no pass can come from: where nothing passes, and all fail but those
    in which the *reference* leaves too many items unscored, it is a fail. These would be inconclusive;
    but without the exception no paired claim could be certain before all but a few items are answered.
    """
    stop = certain_outcome(gate, table, table.pending, alpha, judge=judge)
    if stop is None:
        scored = certain_outcome(gate, table, table.pending, alpha, judge=judge, completions="scored")
        stop = scored if scored is not None and scored.outcome == "fail" else None
    return stop


def judge_partial(
    gate: EvalGate,
    table: ScoreTable,
    alpha: float,
    *,
    judge: Judge | None = None,
    policy_line: int = 0,
    details: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict that a table with unanswered items has whatever they would have scored.

    ``observed`` is of the items that were answered. There is no ``bound``, which only the rest would
    give, which is why no gate against an anchor is judged here.

    Raises:
        EvidenceError: ``gate.partial-run``: they could still change it.
    """
    chosen = table.of_clusters(gate.clusters)
    n_pending = sum(one.count for one in chosen.pending)
    stop = certain_stop(gate, table, alpha, judge=judge)
    if stop is None:
        raise EvidenceError(
            "gate.partial-run",
            f"{n_pending} of the items of suite {gate.suite!r} that were drawn were not answered, and they could "
            "still change the verdict",
            got=f"{chosen.n_items} items answered",
            expected=f"{chosen.n_items + n_pending} drawn",
            fix="run the evaluation again: it goes on until every verdict is certain",
        )
    n_drawn = chosen.n_items + n_pending
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome=stop.outcome,
        reason=f"certain after {chosen.n_items} of {n_drawn} items, whatever the other {n_pending} scored",
        observed=_observed(gate, chosen),
        margin=threshold(gate),
        n=chosen.n_items,
        alpha=alpha,
        policy_line=policy_line,
        details={
            "suite": gate.suite,
            "metric": gate.metric,
            "claim": gate.claim,
            "against": gate.against or "",
            "n_unscored": str(chosen.n_unscored()),
            "test": "curtailed",
            ANSWERED_DETAIL: str(chosen.n_items),
            DRAWN_DETAIL: str(n_drawn),
            SAVED_DETAIL: str(n_pending),
            **(details or {}),
        },
    )


def _may_read_a_part(gate: LeafGate) -> bool:
    return isinstance(gate, EvalGate) and gate.against != "anchor" and not (gate.group_by or "").startswith(TAG)


def _is_certain(gate: EvalGate, inputs: GateInputs) -> bool:
    judge = None if gate.judge is None else inputs.policy.policy.judges[gate.judge]
    try:
        alpha, table = alpha_of_gate(gate, inputs), table_for(gate, inputs)
        return certain_stop(gate, table, alpha, judge=judge) is not None
    except StairlockError:
        return False


def _observed(gate: EvalGate, answered: ScoreTable) -> float | None:
    """Mean over the answered items or sources, in the metric's unit; None where it cannot be told."""
    try:
        counts, _ = tested_values(gate, answered)
    except EvidenceError:
        return None
    return mean_of(counts) * (gate.scale or 1.0) if counts else None
