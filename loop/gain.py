"""The gain of a run, root against last champion, measured on items that no decision has used.

A champion was chosen because it did well on the items of its looks, so its figures there are too
good on average (winner's curse). Here root and champion answer fresh items once more, after the
last decision: nothing was chosen by these, so the difference on them is unbiased for this champion.

What is measured: the claims of the policy's superiority gates, root in the place of what they
compare with. The seed enters the ledger before any item is answered, and each figure once it is
known; asked again it is read back. So nobody can draw until the gain looks good and show only that.

Not covered: a suite whose items come from a file, for which there are no fresh items; what no
superiority gate asks; where a judge scores, its errors (the difference is of what it said).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from guards import actions
from guards.actions.seal import SEED_BYTES
from guards.canonical import sha256_bytes
from guards.entries import Measured
from guards.errors import EvidenceError, StairlockError
from guards.evidence import EvidenceRun, Frozen
from guards.gates.inputs import GateInputs, Role, comparable_runs
from guards.gates.score_table import ScoreTable, table_of
from guards.gates.table_verdict import tested_values
from guards.history import History
from guards.policy import EvalGate, ResolvedPolicy
from guards.recorded_run import prompts_of_recorded_run
from guards.statistics import betting_test_of_counts, mean_of, tango_interval
from loop.gain_words import CONFIDENCE, DRAWN, GAIN, STILL_THE_ROOT, Gain, GainFigure, Interval
from loop.gating import measure
from loop.home import Home
from loop.recorded_steps import RecordedSteps


class _Begun(Frozen):
    """What the entry ``gain/drawn`` holds."""

    root: str
    champion: str
    policy: str
    seed: str
    suites: tuple[str, ...]


def superiority_gates(policy: ResolvedPolicy, suites: Sequence[str] | None = None) -> tuple[EvalGate, ...]:
    """The policy's superiority claims, each subject once; ``suites`` keeps those of these suites only."""
    found: dict[tuple[object, ...], EvalGate] = {}
    for gate in policy.policy.leaf_gates():
        if isinstance(gate, EvalGate) and gate.claim == "superior_by" and (suites is None or gate.suite in suites):
            found.setdefault((gate.suite, gate.metric, gate.clusters, gate.scale, gate.group_by), gate)
    return tuple(found.values())


def recorded_gain(history: History, run: str) -> Gain | None:
    """What a run was found to have gained, if that was asked."""
    return next((Gain.from_figures(e.body.figures) for e in history.measured(run) if e.body.name == GAIN), None)


def measure_gain(
    home: Home,
    steps: RecordedSteps,
    policy: ResolvedPolicy,
    *,
    run: str,
    actor: str,
    suites: Sequence[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    draw: Callable[[int], bytes] = secrets.token_bytes,
) -> Gain:
    """The gain of the home's champion over its root, on items drawn now; or as it was measured before.

    ``run`` is a run that was started; each has one gain. Where there is nothing to measure (the
    champion is still the root, no superiority gate, no fresh items) nothing is computed, and the
    notes say so.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.no-such-run``.
        EvidenceError: root and champion were not measured alike (:func:`guards.gates.inputs.comparable_runs`).
        StepError: see :mod:`loop.step`.
    """
    with home.store.read() as history:
        known, drawn = recorded_gain(history, run), _drawn_before(history, run)
        root, champion = history.root(), history.champion()
    if known is not None:
        return known
    gates, notes = _measurable(policy, suites)
    if drawn is None:
        nothing = Gain(root="" if root is None else root.body.checkpoint, champion=champion or "", policy=policy.digest)
        if nothing.root == nothing.champion:
            notes = (STILL_THE_ROOT,)
        if not gates or nothing.root == nothing.champion:
            return _record(home, run, nothing.model_copy(update={"notes": notes}), actor)
        figures = {
            "root": nothing.root,
            "champion": nothing.champion,
            "policy": policy.digest,
            "seed": draw(SEED_BYTES).hex(),
            "suites": sorted({gate.suite for gate in gates}),
        }
        drawn = actions.record_measured(home.store, run=run, name=DRAWN, figures=figures, actor=actor).body
    begun = _Begun.model_validate(drawn.figures)
    if begun.policy != policy.digest:
        raise StairlockError(
            "gain.other-policy",
            f"the gain of {run!r} began to be measured under another policy",
            got=policy.digest,
            expected=begun.policy,
            fix="finish it with the policy file that it began with",
        )
    gates = tuple(gate for gate in gates if gate.suite in begun.suites)
    gain = _measure(home, steps, policy, begun, gates, notes, device=device, dtype=dtype)
    return _record(home, run, gain, actor)


def _drawn_before(history: History, run: str) -> Measured | None:
    return next((entry.body for entry in history.measured(run) if entry.body.name == DRAWN), None)


def _measurable(policy: ResolvedPolicy, suites: Sequence[str] | None) -> tuple[tuple[EvalGate, ...], tuple[str, ...]]:
    """The superiority gates for which there are fresh items, and why there are none for the others."""
    gates = superiority_gates(policy, suites)
    fresh = tuple(gate for gate in gates if gate.suite not in policy.policy.holdouts)
    notes = [
        f"{gate.metric} of {gate.suite} was not measured: its items come from a file, so that none are fresh"
        for gate in gates
        if gate not in fresh
    ]
    if not gates:
        of = "" if suites is None else f" of {', '.join(suites)}"
        notes.append(f"the policy {policy.policy.name} has no superiority gate{of}, so it names no gain to measure")
    return fresh, tuple(notes)


def _measure(
    home: Home,
    steps: RecordedSteps,
    policy: ResolvedPolicy,
    begun: _Begun,
    gates: Sequence[EvalGate],
    notes: tuple[str, ...],
    *,
    device: str,
    dtype: str,
) -> Gain:
    seed, suites = bytes.fromhex(begun.seed), frozenset(begun.suites)
    roles: dict[tuple[Role, str], frozenset[str]] = {("root", begun.root): suites, ("champion", begun.champion): suites}
    measured = measure(home, steps, policy, seed, roles=roles, name="gain", candidate=None, device=device, dtype=dtype)
    runs = {("candidate" if role == "champion" else role, suite): run for (role, _, suite), run in measured.items()}
    inputs = GateInputs(
        policy=policy,
        look=1,
        draw_seed_digest=sha256_bytes(seed),
        checkpoints={"candidate": begun.champion, "root": begun.root},
        runs=runs,
    )
    used = {suite: _used_prompts(home, suite) for suite in begun.suites}
    figures: list[GainFigure] = []
    for gate in gates:
        champion, root = comparable_runs(inputs, "root", gate.suite)
        prompts, n_lost = used[gate.suite]
        fresh = [_without(run, prompts) for run in (champion, root)]
        table = table_of(gate.metric, gate.group_by, *fresh).of_clusters(gate.clusters)
        figure = _figure(gate, table, n_left_out=len(champion.records) - len(fresh[0].records))
        if figure is None:
            notes += (f"{gate.metric} of {gate.suite} was not measured: a look had used every item that was drawn",)
        else:
            figures.append(figure)
        if n_lost:
            notes += (f"{n_lost} looks left no evidence on {gate.suite}, so what they used could not be left out",)
    return Gain(
        root=begun.root,
        champion=begun.champion,
        policy=policy.digest,
        figures=tuple(figures),
        notes=tuple(dict.fromkeys(notes)),
        evidence={f"{role}:{suite}": run.manifest.evidence_digest for (role, _, suite), run in measured.items()},
    )


def _record(home: Home, run: str, gain: Gain, actor: str) -> Gain:
    entry = actions.record_measured(home.store, run=run, name=GAIN, figures=gain.to_figures(), actor=actor)
    return Gain.from_figures(entry.body.figures)


def _used_prompts(home: Home, suite: str) -> tuple[frozenset[str], int]:
    """Prompts of this suite that any look asked, and how many looks left no evidence to read them from."""
    used: set[str] = set()
    n_lost = 0
    with home.store.read() as history:
        for look in history.entries(kind="seed"):
            # Everybody answers the same items in one look.
            answered = next((one for one in history.evidence(look.seq) if one.body.suite == suite), None)
            if answered is None:
                continue
            try:
                used |= prompts_of_recorded_run(home.path, answered)
            except EvidenceError:
                n_lost += 1
    return frozenset(used), n_lost


def _without(run: EvidenceRun, prompts: frozenset[str]) -> EvidenceRun:
    """The run's items that are not among ``prompts``."""
    return run.model_copy(update={"records": tuple(r for r in run.records if r.prompt_digest not in prompts)})


def _figure(gate: EvalGate, table: ScoreTable, *, n_left_out: int) -> GainFigure | None:
    """The mean difference of a table with its intervals; None if there are no items."""
    if table.n_items == 0:
        return None
    values, is_single = tested_values(gate.model_copy(update={"clusters": None}), table)
    n, unit, tail = sum(count for _, count in values), gate.scale or 1.0, (1.0 - CONFIDENCE) / 2.0
    # A lower bound at each end: together they miss the mean with probability 1 - CONFIDENCE at most.
    low = betting_test_of_counts(values, 0.0, tail).lower_bound
    high = -betting_test_of_counts([(-value, count) for value, count in reversed(values)], 0.0, tail).lower_bound
    count_of = dict(values)
    gains, losses = count_of.get(1.0, 0), count_of.get(-1.0, 0)
    tango = None
    if is_single and gate.scale is None and gains + losses + count_of.get(0.0, 0) == n:
        tango = tango_interval(gains, losses, n, CONFIDENCE)
    return GainFigure(
        gate=gate.id,
        suite=gate.suite,
        metric=gate.metric,
        clusters=gate.clusters,
        n=n,
        n_left_out=n_left_out,
        n_unscored=table.n_unscored(),
        difference=mean_of(values) * unit,
        betting=Interval(low=low * unit, high=high * unit),
        tango=None if tango is None else Interval(low=tango[0], high=tango[1]),
    )
