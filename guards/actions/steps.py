"""Runs and steps: that something began is in the log before its results can be.

So nobody can run a step until it turns out well and show only that attempt: the log counts them,
those that were killed too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from guards.actions.preconditions import refuse_if_halted
from guards.entries import Logged, Measured, RunFinished, RunStarted, StepFinished, StepStarted
from guards.errors import ActionRefused
from guards.evidence import Cost
from guards.history import Attempt, History
from guards.ledger import without_floats
from guards.store import Store


def start_run(
    store: Store, *, run: str, config: str, plan: Mapping[str, Any], actor: str, policy: str | None = None
) -> Logged[RunStarted]:
    """Begin a run, by its name and the digest of its resolved configuration; resumed, it is the same entry.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.other-config``.
    """
    with store.write() as transaction:
        refuse_if_halted(transaction.history)
        existing = transaction.history.run(run)
        if existing is None:
            body = RunStarted(run=run, config=config, policy=policy, plan=without_floats(plan))
            return transaction.append(actor, body)
        if (existing.body.config, existing.body.policy) != (config, policy):
            raise ActionRefused(
                "actions.other-config",
                f"the run {run!r} began with another configuration or policy",
                got=f"config {config}, policy {policy}",
                expected=f"config {existing.body.config}, policy {existing.body.policy}",
                fix="resume it with the files that it began with, or start another run",
            )
        return existing


def finish_run(store: Store, *, run: str, outcome: str, summary: Mapping[str, Any], actor: str) -> Logged[RunFinished]:
    """End a run. Ended again, it is the entry that exists.

    Raises:
        ActionRefused: ``actions.no-such-run``.
    """
    with store.write() as transaction:
        existing = transaction.history.run_end(run)
        if existing is not None:
            return existing
        _known_run(transaction.history, run)
        body = RunFinished(run=run, outcome=outcome, summary=without_floats(summary))
        return transaction.append(actor, body)


def record_measured(
    store: Store, *, run: str, name: str, figures: Mapping[str, Any], actor: str, candidate: str | None = None
) -> Logged[Measured]:
    """Write figures that no gate reads. The first figures of a name in a run stand.

    Raises:
        ActionRefused: ``actions.no-such-run``.
        LedgerError: ``ledger.not-finite``.
    """
    with store.write() as transaction:
        for existing in transaction.history.measured(run):
            if existing.body.name == name:
                return existing
        _known_run(transaction.history, run)
        body = Measured(run=run, name=name, candidate=candidate, figures=without_floats(figures))
        return transaction.append(actor, body)


def start_step(
    store: Store,
    *,
    spec: str,
    step: str,
    actor: str,
    candidate: str | None = None,
    run: str | None = None,
    again: bool = False,
) -> Attempt:
    """Begin a step, by the digest of its spec, before its process starts.

    Every call begins another attempt, and an attempt that was killed stays without an end in the
    log. Only if the step is done is that attempt returned (``is_done``), and there is nothing to
    run; with ``again`` (its outputs are lost, or it is to be repeated) another begins even then.

    Raises:
        ActionRefused: ``actions.halted``.
    """
    with store.write() as transaction:
        history = transaction.history
        attempts = history.attempts(spec)
        last = attempts[-1] if attempts else None
        if last is not None and last.is_done and not again:
            return last
        refuse_if_halted(history)
        number = 1 if last is None else last.number + 1
        body = StepStarted(spec=spec, step=step, attempt=number, candidate=candidate, run=run)
        return Attempt(transaction.append(actor, body), None)


def finish_step(
    store: Store,
    *,
    spec: str,
    attempt: int,
    outcome: Literal["done", "failed"],
    actor: str,
    outputs: str | None = None,
    cost: Cost | None = None,
    reason: str = "",
) -> Logged[StepFinished]:
    """End an attempt. ``outputs`` is the digest of the output manifest; a step that is done has one.

    Allowed while halted: it happened. The same end again is the entry that exists.

    Raises:
        ActionRefused: ``actions.no-such-attempt``, ``actions.no-outputs``, ``actions.step-differs``.
    """
    with store.write() as transaction:
        found = [item for item in transaction.history.attempts(spec) if item.number == attempt]
        if not found:
            raise ActionRefused(
                "actions.no-such-attempt", "this attempt was never started", got=f"attempt {attempt} of {spec}"
            )
        if outcome == "done" and outputs is None:
            raise ActionRefused("actions.no-outputs", "a step without an output manifest is not done", got=spec)
        finished = found[0].finished
        if finished is None:
            started = found[0].started.body
            body = StepFinished(
                spec=spec,
                step=started.step,
                attempt=attempt,
                outcome=outcome,
                outputs=outputs,
                cost=cost,
                reason=reason,
            )
            return transaction.append(actor, body)
        if (finished.body.outcome, finished.body.outputs) != (outcome, outputs):
            raise ActionRefused(
                "actions.step-differs",
                f"this attempt ended in entry {finished.seq}, otherwise",
                got=f"{outcome}, outputs {outputs}",
                expected=f"{finished.body.outcome}, outputs {finished.body.outputs}",
                fix="begin another attempt",
            )
        return finished


def _known_run(history: History, run: str) -> None:
    if history.run(run) is None:
        raise ActionRefused("actions.no-such-run", "this run was never started", got=run)
