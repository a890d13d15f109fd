"""Recording a policy: from then on it can bind candidates."""

from __future__ import annotations

from guards.actions.preconditions import read_resolved, refuse_if_halted
from guards.canonical import sha256_bytes
from guards.entries import Logged, PolicyRecorded
from guards.errors import ActionRefused
from guards.policy import ResolvedPolicy
from guards.store import Store


def record_policy(store: Store, *, policy: ResolvedPolicy, actor: str) -> Logged[PolicyRecorded]:
    """Write a resolved policy (suites by digest) into the log.

    It binds only candidates sealed afterwards. Recorded again, it is the entry that exists.

    Raises:
        ActionRefused: ``actions.policy-digest`` if its digest is not that of its JSON,
            ``actions.bad-policy``, ``actions.halted``.
    """
    computed = sha256_bytes(policy.canonical_json.encode("utf-8"))
    if computed != policy.digest:
        raise ActionRefused(
            "actions.policy-digest", "this is not the policy's digest", got=policy.digest, expected=computed
        )
    name = read_resolved(policy.canonical_json).name
    with store.write() as transaction:
        existing = transaction.history.policy(policy.digest)
        if existing is not None:
            return existing
        refuse_if_halted(transaction.history)
        body = PolicyRecorded(policy=policy.digest, name=name, resolved=policy.canonical_json)
        return transaction.append(actor, body)
