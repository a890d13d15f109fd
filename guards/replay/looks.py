"""The way of a candidate: sealed, drawn for, measured, judged, decided, promoted.

Not covered: whether a verdict's figures are what the evidence gives; that the random bytes were
random; that a look was drawn although another one was open (both are in the log, and counted).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from guards.canonical import digest_of
from guards.entries import Body, DecisionMade, EvidenceRecorded, Logged, Promoted, Sealed, SeedDrawn, VerdictRecorded
from guards.errors import StairlockError
from guards.gates.contradictions import contradictions
from guards.gates.look_alpha import overspent
from guards.gates.verdict import Verdict
from guards.policy import Approvals, EvalGate
from guards.replay.approvals import approvals_at
from guards.replay.decisions import decision_at, decisions_possible
from guards.replay.past import LookSoFar, Past, not_allowed, require_same
from guards.roles import Roles


def check_sealed(past: Past, entry: Logged[Body], body: Sealed) -> None:
    """A seal names a recorded policy and the digest of its own manifest."""
    if body.policy not in past.policies:
        raise not_allowed(entry, "no policy of this digest was recorded before", got=body.policy)
    _refuse_recalled(past, entry, body.candidate)
    require_manifest(entry, body.candidate, body.manifest)
    seals = past.seals[body.candidate]
    if seals and seals[-1].policy == body.policy:
        raise not_allowed(entry, "the candidate was sealed under this policy before", got=body.candidate)


def check_seed(past: Past, entry: Logged[Body], body: SeedDrawn) -> None:
    """Items are drawn for a candidate whose digest is in the log, and every draw is counted."""
    seals = past.seals[body.candidate]
    if not seals:
        raise not_allowed(entry, "items were drawn for a candidate that was not sealed before", got=body.candidate)
    _refuse_recalled(past, entry, body.candidate)
    require_same(entry, "policy", body.policy, seals[-1].policy)
    name = past.policies[body.policy].name
    require_same(entry, "policy name", body.policy_name, name)
    require_same(entry, "number of the look", body.look, past.n_looks[name] + 1)
    require_same(entry, "champion", body.champion, past.champion)
    rejected = [look for look in past.rejections(body.candidate) if look.body.policy_name == name]
    if rejected:
        raise not_allowed(entry, "a policy of this name rejected the candidate before", got=f"look {rejected[0].seq}")
    if body.abandons is not None:
        given_up = past.latest_look.get(body.candidate)
        if given_up is None or given_up.seq != body.abandons.look_seq or not given_up.evidence or given_up.verdicts:
            raise not_allowed(
                entry,
                "it gives up a look that is not the candidate's open one",
                got=f"look {body.abandons.look_seq}",
                expected="its latest look, with evidence and without verdicts",
            )


def check_evidence(past: Past, entry: Logged[Body], body: EvidenceRecorded) -> None:
    """Evidence belongs to an open look, to a suite of its policy, and to the checkpoint of its role."""
    look = _open_look(past, entry, body.candidate, body.look_seq)
    if look.verdicts:
        raise not_allowed(entry, "the look had its verdicts already", got=f"look {look.seq}")
    policy = past.policies[look.body.policy]
    if body.suite not in policy.suites and body.suite not in policy.kits:
        raise not_allowed(entry, "the policy has no such suite", got=body.suite)
    answers: dict[str, set[str | None]] = {
        "candidate": {look.body.candidate},
        "champion": {look.body.compared_with},
        "root": {past.root},
        "anchor": {past.root, *past.current_anchors},
    }
    allowed = answers[body.role] - {None}
    if body.checkpoint not in allowed:
        raise not_allowed(
            entry,
            f"this checkpoint could not answer as the {body.role}",
            got=body.checkpoint,
            expected=" or ".join(sorted(map(str, allowed))) or None,
        )
    if (body.role, body.suite, body.checkpoint) in look.evidence:
        raise not_allowed(entry, "this suite was answered in this role before", got=f"{body.role}, {body.suite}")
    path = PurePosixPath(body.path)
    if path.is_absolute() or ".." in path.parts:
        raise not_allowed(entry, "its path leads out of the home", got=body.path)


def check_verdict(past: Past, entry: Logged[Body], body: VerdictRecorded) -> None:
    """A verdict is about a gate of the policy, once, and about the evidence of an open look."""
    look = _open_look(past, entry, body.candidate, body.look_seq)
    require_same(entry, "policy", body.policy, look.body.policy)
    require_same(entry, "evidence", body.evidence, look.evidence_digest)
    gates = {gate.id: gate.kind for gate in past.policies[body.policy].gates}
    if body.gate not in gates:
        raise not_allowed(entry, "the policy has no such gate", got=body.gate, expected=", ".join(gates))
    if body.gate in look.verdicts:
        raise not_allowed(entry, "this gate had its verdict already", got=body.gate)
    try:
        verdict = Verdict.from_ledger(dict(body.figures))
    except StairlockError as refusal:
        raise not_allowed(entry, "its figures are no verdict", got=refusal.message) from refusal
    for what, got, expected in (
        ("gate", verdict.gate_id, body.gate),
        ("outcome", verdict.outcome, body.outcome),
        ("kind of gate", verdict.kind, gates[body.gate]),
    ):
        if got != expected:
            raise not_allowed(entry, f"its figures are of another {what}", got=got, expected=expected)
    for problem in contradictions(past.policies[body.policy], [verdict]):
        raise not_allowed(entry, f"its figures contradict it: {problem}")
    earlier = past.plans[look.body.policy_name][: look.body.look - 1]
    problems = overspent(past.policies[body.policy], [verdict], look=look.body.look, earlier=earlier, reads=look.reads)
    for problem in problems:
        raise not_allowed(entry, f"it spends more alpha than was left: {problem}")


def check_decision(past: Past, entry: Logged[Body], body: DecisionMade, roles: Sequence[Roles]) -> None:
    """A decision is what the table gives for the verdicts, waivers and approvals recorded until then."""
    look = _latest_look(past, entry, body.candidate, body.look_seq)
    _refuse_recalled(past, entry, body.candidate)
    require_same(entry, "policy", body.policy, look.body.policy)
    require_same(entry, "evidence", body.evidence, look.evidence_digest)
    require_same(entry, "champion", body.champion, look.body.champion)
    require_same(entry, "champion", body.champion, past.champion)
    if look.decision is not None and (look.decision.body.outcome, body.outcome) != ("hold", "promote"):
        raise not_allowed(
            entry,
            f"the look was decided in entry {look.decision.seq}",
            got=body.outcome,
            expected=f"{look.decision.body.outcome}; only a hold becomes a promotion",
        )
    approvals = approvals_at(past, look, entry.time, roles)
    try:
        follows = [*decisions_possible(past, look, entry.time, approvals_ok=False)]
        if approvals.suffice(past.policies[body.policy].approvals):
            follows += decisions_possible(past, look, entry.time, approvals_ok=True)
    except StairlockError as refusal:
        raise not_allowed(entry, refusal.message, got=refusal.got) from refusal
    if (body.outcome, body.waits_for) not in {(one.outcome, one.waits_for) for one in follows}:
        raise not_allowed(
            entry,
            "this decision does not follow from the recorded verdicts and approvals",
            got=f"{body.outcome}, waits for {body.waits_for} ({approvals.summary})",
            expected=f"{follows[-1].outcome}, waits for {follows[-1].waits_for}: {'; '.join(follows[-1].reasons)}",
        )


def check_promoted(past: Past, entry: Logged[Body], body: Promoted, roles: Sequence[Roles]) -> None:
    """A promotion takes effect once, on the decision that it cites, in place of the champion in use."""
    # (1) it cites the decision of the candidate's latest look, which is to promote, and was not used
    look = _latest_look(past, entry, body.candidate, body.look_seq)
    decision = look.decision
    if decision is None or decision.seq != body.decision_seq or decision.body.outcome != "promote":
        raise not_allowed(
            entry,
            "it cites no decision to promote this candidate",
            got=f"entry {body.decision_seq}",
            expected="no such entry" if decision is None else f"entry {decision.seq} ({decision.body.outcome})",
        )
    if look.promoted_seq is not None:
        raise not_allowed(entry, f"this decision took effect in entry {look.promoted_seq}", got=body.decision_seq)
    require_same(entry, "policy", body.policy, decision.body.policy)
    require_same(entry, "evidence", body.evidence, decision.body.evidence)
    # (2) the checkpoint may be used, and replaces the champion that it was measured against
    _refuse_recalled(past, entry, body.candidate)
    if body.candidate in past.cleanups:
        raise not_allowed(entry, "the checkpoint's files were deleted before", got=body.candidate)
    if past.champion is None:
        raise not_allowed(entry, "there was no champion to replace")
    for named in (body.champion_before, look.body.champion, look.body.compared_with):
        require_same(entry, "champion", named, past.champion)
    # (3) no policy rejected it, its gates let it pass still, and those who are named approve it
    rejected = past.rejections(body.candidate)
    if rejected:
        raise not_allowed(entry, "the candidate was rejected before", got=f"look {rejected[0].seq}")
    terms = past.policies[body.policy].approvals
    for seal in past.seals[body.candidate]:
        before = past.policies[seal.policy].approvals
        if _asks_for_less(terms, before):
            raise not_allowed(
                entry,
                "the candidate was sealed before under a policy that asks for more approvals",
                got=f"{terms.required} approvals",
                expected=f"{before.required} approvals, roles {', '.join(before.roles)}",
            )
    approvals = approvals_at(past, look, entry.time, roles)
    if decision_at(past, look, entry.time, approvals_ok=True).outcome != "promote":
        raise not_allowed(entry, "its gates did not pass at that time", got=f"look {look.seq}")
    strangers = [who for who in body.approvers if who not in approvals.roles_by_approver]
    if strangers or not approvals.suffice(terms, only=body.approvers):
        raise not_allowed(
            entry,
            "the approvals that it names are not recorded, or not enough",
            got=f"{', '.join(body.approvers) or 'nobody'}; recorded: {approvals.summary}",
            expected=f"{terms.required} approvals, with the roles {', '.join(terms.roles) or '(none)'}",
        )
    require_same(entry, "need for approvals (unattended)", body.unattended, terms.required == 0)
    # (4) it is the anchor exactly where it was shown to be better than the anchor
    anchored = [
        gate.id for gate in past.policies[body.policy].gates if isinstance(gate, EvalGate) and gate.against == "anchor"
    ]
    shown = [look.verdicts[gate] for gate in anchored]
    better = [one.gate_id for one in shown if one.outcome == "pass" and (one.bound or 0.0) > 0.0]
    require_same(entry, "set of anchor gates", list(body.anchor_gates), better)


def require_manifest(entry: Logged[Body], checkpoint: str, manifest: object) -> None:
    """Raises ``ledger.not-allowed`` unless the checkpoint's digest is that of its recorded manifest."""
    computed = digest_of(manifest)
    if computed != checkpoint:
        raise not_allowed(
            entry, "the checkpoint's digest is not that of its manifest", got=checkpoint, expected=computed
        )


def _asks_for_less(terms: Approvals, before: Approvals) -> bool:
    return (
        terms.required < before.required
        or bool(set(before.roles) - set(terms.roles))
        or bool(before.required and set(before.exclude) - set(terms.exclude))
    )


def _latest_look(past: Past, entry: Logged[Body], candidate: str, look_seq: int) -> LookSoFar:
    """The look that an entry is about: the latest of this candidate, under the policy that binds it."""
    look = past.looks.get(look_seq)
    if look is None or look.body.candidate != candidate:
        raise not_allowed(entry, "it is about a look that this candidate never had", got=f"look {look_seq}")
    latest = past.latest_look[candidate]
    if latest is not look:
        raise not_allowed(entry, "the candidate has a later look", got=f"look {look_seq}", expected=latest.seq)
    require_same(entry, "policy", look.body.policy, past.seals[candidate][-1].policy)
    return look


def _open_look(past: Past, entry: Logged[Body], candidate: str, look_seq: int) -> LookSoFar:
    look = _latest_look(past, entry, candidate, look_seq)
    if look.decision is not None:
        raise not_allowed(entry, f"the look was decided in entry {look.decision.seq}", got=f"look {look_seq}")
    return look


def _refuse_recalled(past: Past, entry: Logged[Body], checkpoint: str) -> None:
    if checkpoint in past.recalls:
        raise not_allowed(entry, "the checkpoint was recalled before", got=checkpoint)
