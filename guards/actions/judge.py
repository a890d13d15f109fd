"""A look, from its evidence to its decision. Each stage is closed by the next one.

Evidence may be added until verdicts are recorded, verdicts stand until the decision, and a
decided look never changes, except that a hold becomes a promotion when its approvals are there.
New evidence is another look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from guards.actions.outcome import decision_now, evidence_of
from guards.actions.preconditions import (
    bound_policy,
    latest_look,
    refuse_contradictions,
    refuse_if_champion_moved,
    refuse_if_halted,
    refuse_if_policy_moved,
    refuse_if_recalled,
    sealed,
)
from guards.actions.signoff import approval_status, home_roles
from guards.canonical import sha256_bytes
from guards.decision import decide
from guards.entries import DecisionMade, EvidenceRecorded, Logged, Role, SeedDrawn, VerdictRecorded
from guards.errors import ActionRefused, EvidenceError
from guards.evidence import EvidenceRun, read_run
from guards.gates.alpha import earlier_looks
from guards.gates.holdouts import holdout_reads
from guards.gates.look_alpha import overspent
from guards.gates.verdict import Verdict
from guards.history import History
from guards.policy import Policy
from guards.roles import Roles
from guards.store import Store


def record_evidence(
    store: Store, *, candidate: str, role: Role, directory: Path, actor: str
) -> Logged[EvidenceRecorded]:
    """Write a finished run of one suite into the candidate's latest look.

    The run is read back and checked first (:func:`guards.evidence.read_run`). ``role`` says in
    whose place its checkpoint answered. ``directory`` must lie under the home. The same run again
    is the entry that exists.

    Raises:
        EvidenceError: what is half-written or damaged; ``evidence.other-checkpoint``.
        ActionRefused: ``actions.halted``, ``actions.no-look``, ``actions.other-policy``,
            ``actions.other-draw``, ``actions.other-suite``, ``actions.no-such-role``,
            ``actions.look-closed``, ``actions.evidence-differs``, ``actions.evidence-outside-home``.
    """
    path = _path_in_home(store, directory)
    run = read_run(directory)
    manifest = run.manifest
    with store.write() as transaction:
        history = transaction.history
        look = latest_look(history, candidate)
        body = EvidenceRecorded(
            candidate=candidate,
            look_seq=look.seq,
            role=role,
            checkpoint=manifest.checkpoint_digest,
            suite=manifest.suite_name,
            evidence=manifest.evidence_digest,
            path=path,
        )
        existing = [item for item in history.evidence(look.seq) if _slot(item.body) == _slot(body)]
        if existing and existing[0].body.evidence == body.evidence:
            return existing[0]
        refuse_if_halted(history)
        refuse_if_policy_moved(look, sealed(history, candidate))
        _refuse_other_checkpoint(history, look, role, run)
        _refuse_other_draw(look, run)
        _refuse_other_suite(bound_policy(history, look.body.policy), run)
        if history.verdicts(look.seq):
            raise ActionRefused(
                "actions.look-closed",
                "this look has its verdicts, so that its evidence cannot change any more",
                got=f"suite {body.suite!r}, role {role}",
                fix="its decision follows from what is recorded; evidence that is lost is restored from a copy",
            )
        if existing:
            raise ActionRefused(
                "actions.evidence-differs",
                f"suite {body.suite!r} was already answered by the {role} in this look, with another result",
                got=body.evidence,
                expected=existing[0].body.evidence,
                fix="one draw is answered once. If the code or the machine changed since, so that it cannot come out "
                "as it did, give the look up (stairlock abandon CANDIDATE --reason TEXT) and run this again: it goes "
                "on with another look, which counts",
            )
        return transaction.append(actor, body)


def record_verdicts(
    store: Store, *, candidate: str, verdicts: Sequence[Verdict], actor: str
) -> tuple[Logged[VerdictRecorded], ...]:
    """Write one verdict for every gate of the policy, in one transaction, one entry each.

    The same verdicts again are the entries that exist.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.no-look``, ``actions.other-policy``,
            ``actions.no-evidence``, ``actions.look-closed``, ``actions.verdict-contradicts``,
            ``actions.alpha-overspent``.
        StairlockError: the verdicts are not one for every gate (:func:`guards.decision.decide`).
    """
    with store.write() as transaction:
        history = transaction.history
        look = latest_look(history, candidate)
        evidence = evidence_of(history, look)
        bodies = [
            VerdictRecorded(
                candidate=candidate,
                policy=look.body.policy,
                look_seq=look.seq,
                evidence=evidence,
                gate=verdict.gate_id,
                outcome=verdict.outcome,
                figures=verdict.to_ledger(),
            )
            for verdict in verdicts
        ]
        existing = history.verdicts(look.seq)
        if existing and _unmarked(item.body for item in existing) == _unmarked(bodies):
            return existing
        refuse_if_halted(history)
        refuse_if_policy_moved(look, sealed(history, candidate))
        if existing:
            raise ActionRefused(
                "actions.look-closed",
                "this look has other verdicts already",
                got=", ".join(f"{body.gate} {body.outcome}" for body in bodies),
                expected=", ".join(f"{item.body.gate} {item.body.outcome}" for item in existing),
                fix="verdicts on the same evidence are final; gate the candidate again for another look",
            )
        policy = bound_policy(history, look.body.policy)
        # Refuses a gate without a verdict, and a verdict without a gate.
        decide(policy, verdicts, approvals_ok=False)
        refuse_contradictions(policy, verdicts)
        _refuse_overspent(history, look, policy, verdicts)
        return tuple(transaction.append(actor, body) for body in bodies)


def record_decision(store: Store, *, candidate: str, actor: str, roles: Roles | None = None) -> Logged[DecisionMade]:
    """Decide the candidate's latest look by the design's table, from what is recorded, and write that.

    ``roles`` default to the home's roles file, if there is one. A look that is decided stays so,
    and this is its entry; only a hold that waited for approvals becomes ``promote`` when they are there.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.recalled``, ``actions.no-look``,
            ``actions.other-policy``, ``actions.no-evidence``, ``actions.evidence-changed``,
            ``actions.champion-changed``.
        StairlockError: ``decision.no-verdicts`` (:func:`guards.decision.decide`).
    """
    known = home_roles(store) if roles is None else roles
    with store.write() as transaction:
        history = transaction.history
        look = latest_look(history, candidate)
        existing = history.decision(look.seq)
        if existing is not None and existing.body.waits_for != "approvals":
            return existing
        approvals = approval_status(history, look, known, transaction.now)
        if existing is not None and not approvals.is_complete:
            return existing
        refuse_if_halted(history)
        refuse_if_recalled(history, candidate)
        refuse_if_policy_moved(look, sealed(history, candidate))
        refuse_if_champion_moved(history, look)
        decision = decision_now(history, look, transaction.now, approvals_ok=approvals.is_complete, roles=known)
        if existing is not None and decision.outcome != "promote":
            return existing  # a waiver ran out while the approvals came in
        body = DecisionMade(
            candidate=candidate,
            policy=look.body.policy,
            look_seq=look.seq,
            evidence=evidence_of(history, look),
            champion=look.body.champion,
            outcome=decision.outcome,
            waits_for=decision.waits_for,
            reasons=(*decision.reasons, approvals.summary) if decision.waits_for == "approvals" else decision.reasons,
        )
        return transaction.append(actor, body)


def _slot(body: EvidenceRecorded) -> tuple[str, str, str]:
    return body.role, body.suite, body.checkpoint


def _refuse_overspent(history: History, look: Logged[SeedDrawn], policy: Policy, verdicts: Iterable[Verdict]) -> None:
    """No test passes at more alpha than the looks and reads before this one left to it."""
    problems = list(
        overspent(
            policy,
            verdicts,
            look=look.body.look,
            earlier=earlier_looks(history, look.body.policy_name, look.body.look),
            reads=holdout_reads(history, policy, before_seq=look.seq),
        )
    )
    if problems:
        raise ActionRefused(
            "actions.alpha-overspent",
            f"look {look.body.look} would spend more than was left to it: {'; '.join(problems)}",
            fix="let the gates judge this look (stairlock gate, stairlock run); they ask the log what is left",
        )


def _refuse_other_checkpoint(history: History, look: Logged[SeedDrawn], role: Role, run: EvidenceRun) -> None:
    """The run's checkpoint must be the one that may answer in this role."""
    root = history.root()
    root_digest = None if root is None else root.body.checkpoint
    allowed: set[str | None]
    match role:
        case "candidate":
            allowed = {look.body.candidate}
        case "champion":
            allowed = {look.body.compared_with}
        case "root":
            allowed = {root_digest}
        case "anchor":
            allowed = {root_digest, *history.anchors().values()}
    expected = sorted(digest for digest in allowed if digest is not None)
    if not expected:
        raise ActionRefused(
            "actions.no-such-role", f"there is no {role} here whose evidence this could be", fix="set a root first"
        )
    if run.manifest.checkpoint_digest not in expected:
        raise EvidenceError(
            "evidence.other-checkpoint",
            f"{run.directory} is evidence of another checkpoint than the {role}",
            got=run.manifest.checkpoint_digest,
            expected=" or ".join(expected),
            fix="evaluate the checkpoint that is being gated",
        )


def _refuse_other_draw(look: Logged[SeedDrawn], run: EvidenceRun) -> None:
    expected = sha256_bytes(bytes.fromhex(look.body.seed))
    if run.manifest.draw_seed_digest != expected:
        raise ActionRefused(
            "actions.other-draw",
            f"{run.directory} answers the items of another draw",
            got=run.manifest.draw_seed_digest,
            expected=expected,
            fix="evaluate on the items drawn for this look",
        )


def _refuse_other_suite(policy: Policy, run: EvidenceRun) -> None:
    name = run.manifest.suite_name
    expected = {**policy.suites, **policy.kits}.get(name)  # in a resolved policy these are digests
    if run.manifest.suite_digest != expected:
        raise ActionRefused(
            "actions.other-suite",
            f"{run.directory}: {name!r} is not a suite, or a bank's kit, of the policy that binds the candidate",
            got=run.manifest.suite_digest,
            expected=expected or ", ".join(sorted({*policy.suites, *policy.kits})) or "no suite",
            fix="evaluate with the suite file that the policy was resolved with",
        )


def _path_in_home(store: Store, directory: Path) -> str:
    try:
        return directory.resolve().relative_to(store.home).as_posix()
    except ValueError as error:
        raise ActionRefused(
            "actions.evidence-outside-home",
            "evidence must lie under the home, so that the two stay together",
            got=str(directory),
            expected=f"a directory under {store.home}",
        ) from error


def _unmarked(bodies: Iterable[VerdictRecorded]) -> list[dict[str, Any]]:
    """What the gates said, without the waiver marks, which depend on when one asks."""
    return [{**body.model_dump(), "figures": {**body.figures, "waived": None}} for body in bodies]
