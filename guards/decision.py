"""The decision: what follows from the verdicts, the live waivers and the approvals.

====================================  =======  ==================
any gate fails                        reject   nothing releases it
else any is inconclusive, not waived  hold     new evidence, or a live waiver; never a sign-off
else approvals are missing            hold     sign-offs
else                                  promote
====================================  =======  ==================

Not covered: whether the approvals are valid, which ``guards.actions`` decides, and again when it
promotes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from guards.errors import StairlockError
from guards.evidence import Frozen
from guards.gates.verdict import WAIVED_UNTIL_DETAIL, WAIVER_DETAIL, Verdict, explain
from guards.policy import Policy, Waiver
from guards.waivers import waiver_text


class Decision(Frozen):
    """The outcome, why, and what a held candidate waits for. ``verdicts`` have their waivers marked."""

    outcome: Literal["reject", "hold", "promote"]
    waits_for: Literal["nothing", "evidence", "approvals"]
    reasons: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def decide(
    policy: Policy, verdicts: Iterable[Verdict], *, approvals_ok: bool, waivers: Sequence[Waiver] = ()
) -> Decision:
    """Apply the table above to one verdict per gate of ``policy``.

    ``waivers`` are those that :func:`guards.waivers.live_waivers` returned for this look.

    Raises:
        StairlockError: ``decision.no-verdicts``; ``decision.missing-verdict``, where a gate has
            none; ``decision.duplicate-verdict``; ``decision.unknown-gate``, where a verdict is
            about no gate of the policy.
    """
    verdicts = tuple(verdicts)
    _check_complete(policy, verdicts)
    waiver_by_gate = {waiver.gate: waiver for waiver in waivers}
    marked = mark_waived(verdicts, waivers)
    failed = [verdict for verdict in marked if verdict.outcome == "fail"]
    # Anything that is not a pass holds, so that an outcome that nobody thought of cannot promote.
    open_ = [verdict for verdict in marked if verdict.outcome != "pass" and not verdict.waived]
    if failed:
        return _decision("reject", "nothing", [explain(verdict) for verdict in failed], marked)
    if open_:
        return _decision("hold", "evidence", [explain(verdict) for verdict in open_], marked)
    waived = [
        f"{verdict.gate_id} is waived {waiver_text(waiver_by_gate[verdict.gate_id])}"
        for verdict in marked
        if verdict.waived
    ]
    if not approvals_ok:
        needed = policy.approvals
        asked = f"{needed.required} approvals are needed, with the roles {', '.join(needed.roles)}"
        return _decision("hold", "approvals", [asked, *waived], marked)
    passed = f"all {len(marked)} gates pass" if not waived else f"{len(marked) - len(waived)} gates pass"
    signed = "nobody had to approve" if policy.approvals.required == 0 else "the approvals are there"
    return _decision("promote", "nothing", [f"{passed}, and {signed}", *waived], marked)


def mark_waived(verdicts: Iterable[Verdict], waivers: Sequence[Waiver]) -> tuple[Verdict, ...]:
    """The verdicts, with ``waived`` set where an inconclusive gate has a waiver, and its text in ``details``."""
    waiver_by_gate = {waiver.gate: waiver for waiver in waivers}
    marked: list[Verdict] = []
    for verdict in verdicts:
        waiver = waiver_by_gate.get(verdict.gate_id) if verdict.outcome == "inconclusive" else None
        details = {n: text for n, text in verdict.details.items() if n not in (WAIVER_DETAIL, WAIVED_UNTIL_DETAIL)}
        if waiver is not None:
            details |= {WAIVER_DETAIL: waiver_text(waiver), WAIVED_UNTIL_DETAIL: waiver.expires.isoformat()}
        marked.append(verdict.model_copy(update={"waived": waiver is not None, "details": details}))
    return tuple(marked)


def _decision(
    outcome: Literal["reject", "hold", "promote"],
    waits_for: Literal["nothing", "evidence", "approvals"],
    reasons: list[str],
    verdicts: tuple[Verdict, ...],
) -> Decision:
    return Decision(outcome=outcome, waits_for=waits_for, reasons=tuple(reasons), verdicts=verdicts)


def _check_complete(policy: Policy, verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        raise StairlockError("decision.no-verdicts", "there are no verdicts, so nothing can be decided")
    counts = Counter(verdict.gate_id for verdict in verdicts)
    gate_ids = [gate.id for gate in policy.gates]
    for rule, what, ids in (
        ("decision.missing-verdict", "have no verdict", [i for i in gate_ids if i not in counts]),
        ("decision.unknown-gate", "are not in the policy", [i for i in counts if i not in gate_ids]),
        ("decision.duplicate-verdict", "have several verdicts", [i for i, n in counts.items() if n > 1]),
    ):
        if ids:
            raise StairlockError(
                rule, f"some gates {what}", got=", ".join(ids), fix="evaluate every gate of the policy once"
            )
