"""Changing the champion: promotion, and rollback to a past champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from guards.actions.adopt import refuse_under_policy
from guards.actions.outcome import decision_now, evidence_of, read_verdict
from guards.actions.preconditions import (
    bound_policy,
    decided,
    latest_look,
    refuse_if_champion_moved,
    refuse_if_halted,
    refuse_if_policy_moved,
    refuse_if_recalled,
    rejections,
    sealed,
)
from guards.actions.signoff import approval_status, home_roles
from guards.entries import (
    DecisionMade,
    EvidenceRecorded,
    Logged,
    Promoted,
    RolledBack,
    SeedDrawn,
    typed_as,
)
from guards.errors import ActionRefused
from guards.evidence import read_run
from guards.history import History
from guards.manifest import verify_checkpoint
from guards.policy import Approvals, EvalGate
from guards.roles import Roles
from guards.store import Store


@dataclass(frozen=True)
class _Authorised:
    look: Logged[SeedDrawn]
    decision: Logged[DecisionMade]
    approvers: tuple[str, ...]
    is_unattended: bool
    reasons: tuple[str, ...]
    anchor_gates: tuple[str, ...]


def promote(
    store: Store,
    *,
    candidate: str,
    champion_expected: str,
    checkpoint_dir: Path,
    actor: str,
    roles: Roles | None = None,
) -> Logged[Promoted]:
    """Make a candidate the champion, if everything that this needs is true at this moment.

    Everything is checked again: halts, recalls, verdicts, waivers, approvals (with their
    signatures), evidence files, the checkpoint's files, and that the champion is both
    ``champion_expected`` and the one that the candidate was gated against. A hold that waited
    only for approvals becomes a ``promote`` decision in the same transaction. ``roles`` default
    to the home's roles file. The candidate becomes the anchor of every gate that shows it to be
    better than the anchor so far. A promotion that took effect already is the entry that exists.

    Not covered: files changed after they were checked here; they are checked again when loaded.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.recalled``, ``actions.cleaned-up``,
            ``actions.not-sealed``, ``actions.no-look``, ``actions.not-decided``,
            ``actions.other-policy``, ``actions.no-champion``, ``actions.champion-changed``,
            ``actions.other-comparison``, ``actions.rejected``, ``actions.rejected-elsewhere``,
            ``actions.fewer-approvals``, ``actions.decision-used``,
            ``actions.evidence-changed``, ``actions.not-approved``, ``actions.not-passed``,
            ``actions.policy-not-in-force``, ``actions.policy-tightened``, ``actions.bad-bundle``.
        CheckpointError: the files are not those that were sealed.
        EvidenceError: the evidence is not what was recorded.
    """
    known = home_roles(store) if roles is None else roles
    # First what costs nothing, then the files; both outside the write lock, which others may wait for.
    with store.read() as history:
        done = _already_promoted(history, candidate)
        if done is not None:
            return done
        authorised = _authorise(history, candidate, champion_expected, known, store.now())
        evidence = history.evidence(authorised.look.seq)
    verify_checkpoint(checkpoint_dir, candidate)
    _verify_evidence(store, evidence)
    with store.write() as transaction:
        history = transaction.history
        done = _already_promoted(history, candidate)
        if done is not None:
            return done
        again = _authorise(history, candidate, champion_expected, known, transaction.now)
        if again.look.seq != authorised.look.seq:
            raise _evidence_changed("the candidate was gated again while its files were being checked")
        decision = again.decision
        if decision.body.outcome != "promote":
            update = {"outcome": "promote", "waits_for": "nothing", "reasons": again.reasons}
            decision = transaction.append(actor, decision.body.model_copy(update=update))
        body = Promoted(
            candidate=candidate,
            policy=again.look.body.policy,
            evidence=decision.body.evidence,
            look_seq=again.look.seq,
            decision_seq=decision.seq,
            champion_before=champion_expected,
            approvers=again.approvers,
            unattended=again.is_unattended,
            anchor_gates=again.anchor_gates,
        )
        return transaction.append(actor, body)


def rollback(store: Store, *, to: str, checkpoint_dir: Path, reason: str, actor: str) -> Logged[RolledBack]:
    """Bring a past champion back into use. Allowed while halted: it is what a halt may call for.

    The same rollback again, with no other champion in between, is the entry that exists.

    Raises:
        ActionRefused: ``actions.no-champion``, ``actions.already-champion``,
            ``actions.not-a-past-champion``, ``actions.recalled``, ``actions.cleaned-up``.
        CheckpointError: the files are not those that were champion.
    """
    with store.read() as history:
        done = _already_rolled_back(history, to)
        if done is not None:
            return done
        _authorise_rollback(history, to)
    verify_checkpoint(checkpoint_dir, to)
    with store.write() as transaction:
        done = _already_rolled_back(transaction.history, to)
        if done is not None:
            return done
        champion_before = _authorise_rollback(transaction.history, to)
        return transaction.append(actor, RolledBack(checkpoint=to, champion_before=champion_before, reason=reason))


def _authorise(
    history: History,
    candidate: str,
    champion_expected: str,
    roles: Roles | None,
    now: datetime,
) -> _Authorised:
    # (1) nothing is halted
    refuse_if_halted(history)
    # (2) the checkpoint is sealed, not recalled, and its files were not deleted
    seal = sealed(history, candidate)
    refuse_if_recalled(history, candidate)
    _refuse_if_cleaned_up(history, candidate)
    # (3) its latest look is decided, under the policy that binds it, is no reject, and was not used before;
    #     no policy rejected it here, and none that it was sealed under asks for more people
    look = latest_look(history, candidate)
    refuse_if_policy_moved(look, seal)
    decision = decided(history, look)
    if decision.body.outcome == "reject":
        raise ActionRefused(
            "actions.rejected",
            f"the candidate was rejected in entry {decision.seq}: {'; '.join(decision.body.reasons)}",
            got=candidate,
            fix="nothing releases a reject; propose another candidate",
        )
    _refuse_rejected_elsewhere(history, candidate)
    _refuse_fewer_approvals(history, look)
    used = history.promotion(decision.seq)
    if used is not None:
        raise ActionRefused(
            "actions.decision-used",
            f"this decision took effect in entry {used.seq}, and another champion came after it",
            got=candidate,
            fix="roll back to it (stairlock rollback), or gate it again (another look)",
        )
    # (4) the champion in use is the one that the caller means, and the one that the gates compared with
    _refuse_other_champion(history, look, champion_expected)
    # (5) the evidence is what the decision was about
    if decision.body.evidence != evidence_of(history, look):
        raise _evidence_changed("the decision is about other evidence than is recorded")
    # (6) its verdicts let it pass now, and enough people approve exactly this
    approvals = approval_status(history, look, roles, now)
    decision_today = decision_now(history, look, now, approvals_ok=approvals.is_complete, roles=roles)
    if decision_today.waits_for == "approvals":
        raise ActionRefused(
            "actions.not-approved",
            f"the approvals that the policy requires are not there: {approvals.summary}",
            got=f"{len(approvals.approvers)} approvals, {len(approvals.rejecters)} rejections",
            expected=f"{approvals.required} approvals, 0 rejections",
            fix="a rejection is taken back only by who signed it, by approving what there is now"
            if approvals.rejecters
            else "stairlock sign CANDIDATE --approve --reason TEXT, by people with the roles",
        )
    if decision_today.outcome != "promote":
        raise ActionRefused(
            "actions.not-passed",
            f"its gates did not pass: {'; '.join(decision_today.reasons)}",
            got=decision_today.outcome,
            fix="a hold is released by new evidence (another look) or a live waiver",
        )
    # (7) the policy that binds it was in force when it was sealed, and not tightened before it was looked at;
    #     and no bundle of policies was refused since
    refuse_under_policy(history, seal, look.seq)
    return _Authorised(
        look=look,
        decision=decision,
        approvers=approvals.approvers,
        is_unattended=approvals.required == 0,
        reasons=decision_today.reasons,
        anchor_gates=_anchor_gates(history, look),
    )


def _anchor_gates(history: History, look: Logged[SeedDrawn]) -> tuple[str, ...]:
    """Gates against an anchor where the candidate is shown to be better than it: the bound is above zero."""
    policy = bound_policy(history, look.body.policy)
    verdicts = {item.body.gate: read_verdict(item) for item in history.verdicts(look.seq)}
    anchored = [gate.id for gate in policy.gates if isinstance(gate, EvalGate) and gate.against == "anchor"]
    return tuple(gate for gate in anchored if verdicts[gate].outcome == "pass" and (verdicts[gate].bound or 0.0) > 0.0)


def _refuse_rejected_elsewhere(history: History, candidate: str) -> None:
    rejected = rejections(history, candidate)
    if rejected:
        raise ActionRefused(
            "actions.rejected-elsewhere",
            f"the policy {rejected[0].body.policy_name!r} rejected this candidate in the look that began in entry "
            f"{rejected[0].seq}",
            got=candidate,
            expected="a candidate that no policy rejected in this home",
            fix="nothing releases a reject, nor does another policy; make another candidate",
        )


def _refuse_fewer_approvals(history: History, look: Logged[SeedDrawn]) -> None:
    """Sealing a candidate again under an easier policy must not lower what it takes to approve it."""
    terms = bound_policy(history, look.body.policy).approvals
    for seal in history.seals(look.body.candidate):
        before = bound_policy(history, seal.body.policy).approvals
        if (
            terms.required < before.required
            or set(before.roles) - set(terms.roles)
            or (before.required and set(before.exclude) - set(terms.exclude))
        ):
            raise ActionRefused(
                "actions.fewer-approvals",
                f"the candidate was sealed in entry {seal.seq} under a policy that asks for more approvals",
                got=_terms_text(terms),
                expected=f"at least {_terms_text(before)}",
                fix="gate it under a policy that asks for as much as each that it was sealed under",
            )


def _terms_text(terms: Approvals) -> str:
    roles = f" with the roles {', '.join(terms.roles)}" if terms.roles else ""
    return f"{terms.required} approvals{roles}, not by {' or '.join(terms.exclude) or '(nobody)'}"


def _refuse_other_champion(history: History, look: Logged[SeedDrawn], champion_expected: str) -> None:
    champion = history.champion()
    if champion is None:
        raise ActionRefused("actions.no-champion", "there is no champion to replace", fix="set a root first")
    if champion != champion_expected:
        raise ActionRefused(
            "actions.champion-changed",
            "the champion in use is not the one that this promotion was meant to replace",
            got=champion,
            expected=champion_expected,
            fix="gate the candidate again, against the champion in use (this counts as another look)",
        )
    refuse_if_champion_moved(history, look)
    if look.body.compared_with != champion:
        raise ActionRefused(
            "actions.other-comparison",
            "the candidate was gated against another checkpoint than the champion in use",
            got=str(look.body.compared_with),
            expected=champion,
            fix="gate it against the champion",
        )


def _authorise_rollback(history: History, to: str) -> str:
    """The champion that would be replaced."""
    terms = history.champions()
    if not terms:
        raise ActionRefused("actions.no-champion", "there is no champion yet", fix="set a root first")
    if terms[-1].checkpoint == to:
        raise ActionRefused("actions.already-champion", "this checkpoint is the champion in use", got=to)
    past = [term.checkpoint for term in terms]
    if to not in past:
        raise ActionRefused(
            "actions.not-a-past-champion",
            "only a past champion can come back; anything else goes through the gates",
            got=to,
            expected=f"one of {', '.join(dict.fromkeys(past))}",
        )
    refuse_if_recalled(history, to)
    _refuse_if_cleaned_up(history, to)
    return terms[-1].checkpoint


def _already_promoted(history: History, candidate: str) -> Logged[Promoted] | None:
    """The promotion on the latest decision, if it took effect and is still in effect."""
    look = history.latest_look(candidate)
    decision = None if look is None else history.decision(look.seq)
    promotion = None if decision is None else history.promotion(decision.seq)
    return promotion if promotion is not None and history.champion() == candidate else None


def _already_rolled_back(history: History, to: str) -> Logged[RolledBack] | None:
    terms = history.champions()
    if not terms or terms[-1].checkpoint != to or not isinstance(terms[-1].since.body, RolledBack):
        return None
    return typed_as(terms[-1].since.entry, RolledBack)


def _refuse_if_cleaned_up(history: History, checkpoint: str) -> None:
    if history.cleanup(checkpoint) is not None:
        raise ActionRefused(
            "actions.cleaned-up",
            "the checkpoint's files were deleted by the clean-up rule",
            got=checkpoint,
            fix="train it again (stairlock reproduce), and seal and gate what comes out",
        )


def _verify_evidence(store: Store, evidence: Sequence[Logged[EvidenceRecorded]]) -> None:
    for item in evidence:
        run = read_run(store.home / item.body.path, expect_checkpoint=item.body.checkpoint)
        if run.manifest.evidence_digest != item.body.evidence:
            raise _evidence_changed(f"the run in {item.body.path} is not the one that entry {item.seq} recorded")


def _evidence_changed(message: str) -> ActionRefused:
    return ActionRefused(
        "actions.evidence-changed", message, fix="restore the evidence, or gate the candidate again (another look)"
    )
