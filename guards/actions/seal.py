"""Closing the chamber: sealing a candidate, and drawing the items that it will answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from guards.actions.adopt import refuse_if_tightened
from guards.actions.preconditions import (
    bound_policy,
    latest_look,
    refuse_if_halted,
    refuse_if_policy_moved,
    refuse_if_recalled,
    refuse_if_rejected_under,
    sealed,
)
from guards.canonical import sha256_bytes
from guards.entries import Abandoned, Logged, Sealed, SeedDrawn
from guards.errors import ActionRefused
from guards.evidence import Frozen
from guards.history import History
from guards.ledger import without_floats
from guards.manifest import CheckpointManifest
from guards.store import Store

SEED_BYTES = 32


class Draw(Frozen):
    """One look's random bytes, and what they were drawn for.

    ``look`` counts looks at any candidate under policies of this name: gates divide alpha by the
    planned number of them. ``compared_with`` answers the items in the champion's place.
    """

    candidate: str
    policy: str
    look_seq: int
    look: int
    seed: bytes
    champion: str | None
    compared_with: str | None
    is_decided: bool

    @property
    def seed_digest(self) -> str:
        """What every run of this look must carry as ``draw_seed_digest``."""
        return sha256_bytes(self.seed)


def seal_candidate(
    store: Store,
    *,
    manifest: CheckpointManifest,
    provenance: Mapping[str, Any],
    policy: str,
    actor: str,
    parent: str | None = None,
    submitter: str | None = None,
    trainer: str | None = None,
    reseal: bool = False,
) -> Logged[Sealed]:
    """Write a candidate's digest and provenance into the log; from then on the policy binds it.

    Floats in ``provenance`` are written as decimal text. ``submitter`` (default: ``actor``) and
    ``trainer`` may not approve the candidate where the policy excludes them. Sealed again under
    the same policy it is the entry that exists: the first provenance stands. Under another
    policy, ``reseal`` must say that this is meant; looks go on counting.

    Not covered: whether the provenance is true; ``stairlock reproduce`` finds that out.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.recalled``, ``actions.policy-unknown``,
            ``actions.sealed-under-other-policy``.
    """
    candidate = manifest.digest
    with store.write() as transaction:
        history = transaction.history
        existing = history.candidate(candidate)
        if existing is not None and existing.body.policy == policy:
            return existing
        refuse_if_halted(history)
        refuse_if_recalled(history, candidate)
        bound_policy(history, policy)
        if existing is not None and not reseal:
            raise ActionRefused(
                "actions.sealed-under-other-policy",
                f"the candidate is bound to the policy that it was sealed under in entry {existing.seq}",
                got=policy,
                expected=existing.body.policy,
                fix="gate it under that policy, or seal it again on purpose; what was seen so far stays on record",
            )
        body = Sealed(
            candidate=candidate,
            manifest=manifest.to_json(),
            provenance=without_floats(provenance),
            parent=parent,
            submitter=actor if submitter is None else submitter,
            trainer=trainer,
            policy=policy,
        )
        return transaction.append(actor, body)


def draw_seed(
    store: Store,
    *,
    candidate: str,
    policy: str,
    actor: str,
    run: str | None = None,
    compared_with: str | None = None,
    source: Callable[[int], bytes] = os.urandom,
) -> Draw:
    """Draw the random bytes from which a sealed candidate's items are made: begin a look.

    One draw per look. While the look is undecided, and the champion is the one that it began
    with, drawing again returns the same bytes. A caller that may be killed and run again names
    itself in ``run``: a look that this run began is returned also when it is decided. Anything
    else is another look, and counts. ``compared_with`` (default: the champion) is for gating two
    checkpoints outside a loop; such a candidate cannot be promoted. A candidate that a policy
    rejected gets no other look under a policy of that name; and one that was sealed before the policy was
    tightened gets no other look under it.

    Not covered: a machine whose random source is not random; a caller who stops looks that go
    badly (they stay in the log, undecided, and are counted).

    Raises:
        ActionRefused: ``actions.halted``, ``actions.not-sealed``, ``actions.recalled``,
            ``actions.other-policy``, ``actions.rejected-before``, ``actions.policy-tightened``,
            ``actions.bad-random-source``.
    """
    with store.write() as transaction:
        history = transaction.history
        seal = sealed(history, candidate)
        if seal.body.policy != policy:
            raise ActionRefused(
                "actions.other-policy",
                "the candidate is bound to another policy",
                got=policy,
                expected=seal.body.policy,
                fix="a policy binds only candidates sealed after it was recorded",
            )
        existing = history.latest_look(candidate)
        is_same = existing is not None and _is_this_look(history, existing, policy, run, compared_with)
        if existing is not None and is_same and history.decision(existing.seq) is not None:
            return _as_draw(history, existing)
        refuse_if_halted(history)
        refuse_if_recalled(history, candidate)
        if existing is not None and is_same:
            return _as_draw(history, existing)
        body = _new_look(history, candidate, policy, compared_with=compared_with, run=run, source=source)
        return _as_draw(history, transaction.append(actor, body))


def abandon_look(
    store: Store, *, candidate: str, reason: str, actor: str, source: Callable[[int], bytes] = os.urandom
) -> Draw:
    """Draw another look in place of the candidate's undecided one, which cannot be gone on with.

    For a look whose evidence would now come out otherwise (the code or the machine changed since
    it was recorded). The new look counts, says which one it replaces and why, and is found by the
    run that began the old one. A look without evidence is not replaced but returned: there is
    nothing in it that could differ. A look with verdicts is never given up: what follows from
    them stands.

    Not covered: somebody who reads the evidence and gives the look up because it looks bad. It
    costs one of the planned looks, and both looks and the reason are in the log.

    Raises:
        ActionRefused: ``actions.no-look``, ``actions.not-sealed``, ``actions.halted``,
            ``actions.recalled``, ``actions.look-closed``, ``actions.other-policy``,
            ``actions.rejected-before``, ``actions.policy-tightened``, ``actions.bad-argument``,
            ``actions.bad-random-source``.
    """
    with store.write() as transaction:
        history = transaction.history
        seal = sealed(history, candidate)
        look = latest_look(history, candidate)
        refuse_if_halted(history)
        refuse_if_recalled(history, candidate)
        refuse_if_policy_moved(look, seal)
        if history.verdicts(look.seq) or history.decision(look.seq) is not None:
            raise ActionRefused(
                "actions.look-closed",
                f"the look that began in entry {look.seq} has its verdicts, and what follows from them stands",
                got=candidate,
                fix="run the same gate or run again: it goes on to the decision, and measures nothing for it",
            )
        if not history.evidence(look.seq):
            return _as_draw(history, look)
        given_up = look.body
        body = _new_look(
            history,
            candidate,
            given_up.policy,
            compared_with=None if given_up.compared_with == given_up.champion else given_up.compared_with,
            run=given_up.run,
            source=source,
            abandons=Abandoned(look_seq=look.seq, reason=reason),
        )
        return _as_draw(history, transaction.append(actor, body))


def _new_look(
    history: History,
    candidate: str,
    policy: str,
    *,
    compared_with: str | None,
    run: str | None,
    source: Callable[[int], bytes],
    abandons: Abandoned | None = None,
) -> SeedDrawn:
    name = bound_policy(history, policy).name
    refuse_if_rejected_under(history, candidate, name)
    refuse_if_tightened(history, sealed(history, candidate))
    seed = source(SEED_BYTES)
    if len(seed) != SEED_BYTES:
        raise ActionRefused("actions.bad-random-source", "the random source gave too little", got=f"{len(seed)} bytes")
    champion = history.champion()
    return SeedDrawn(
        candidate=candidate,
        policy=policy,
        policy_name=name,
        look=history.count_looks(name) + 1,
        seed=seed.hex(),
        champion=champion,
        compared_with=champion if compared_with is None else compared_with,
        run=run,
        abandons=abandons,
    )


def _is_this_look(
    history: History, look: Logged[SeedDrawn], policy: str, run: str | None, compared_with: str | None
) -> bool:
    """True if drawing again means the look that exists, not another one."""
    body = look.body
    if body.policy != policy or (compared_with is not None and body.compared_with != compared_with):
        return False
    if history.decision(look.seq) is not None:
        return run is not None and body.run == run
    return body.champion == history.champion()


def _as_draw(history: History, look: Logged[SeedDrawn]) -> Draw:
    return Draw(
        candidate=look.body.candidate,
        policy=look.body.policy,
        look_seq=look.seq,
        look=look.body.look,
        seed=bytes.fromhex(look.body.seed),
        champion=look.body.champion,
        compared_with=look.body.compared_with,
        is_decided=history.decision(look.seq) is not None,
    )
