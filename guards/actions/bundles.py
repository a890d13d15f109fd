"""Installing a signed bundle of policies: verify, unpack, record. Bringing it into force is another action.

A bundle that does not verify changes no file and no policy: the last good one stays in force. But somebody
sent it, and that is in the log, and nothing is promoted until a good bundle is installed that was signed
since: one that was there before could be sent again by anybody. Who sends a bundle again adds no entry,
and so becomes no author of its policy.

Not covered: a bundle that was kept back while nothing is held (its policy comes into force only as any
other: freely if it is no looser, else with approvals); an author whose clock is wrong.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from guards.actions.policies import record_policy
from guards.actions.preconditions import refuse_if_halted
from guards.approval_terms import MAX_CLOCK_SKEW
from guards.canonical import sha256_bytes
from guards.durable import locked, move_directory
from guards.entries import BundleReceived, Logged
from guards.errors import ActionRefused, SignatureRefused, StairlockError
from guards.history import History
from guards.ledger import parse_time, timestamp
from guards.policy import ResolvedPolicy, resolve_policy
from guards.policy_bundle import PolicyBundle, read_bundle_envelope, referred_files, verify_bundle
from guards.roles import Roles, load_roles
from guards.store import Store

POLICIES_DIR = "policies"
LOCK_FILE = "policies.lock"
AUTHOR_ROLES = ("safety", "governance")
"""Whoever signs a bundle holds one of these."""

Lint = Callable[[ResolvedPolicy], Sequence[str]]
"""What is wrong with a policy, one line each: errors only, no warnings."""


@dataclass(frozen=True)
class InstalledBundle:
    """The entry, the policy's file in the home, and the policy."""

    entry: Logged[BundleReceived]
    path: Path
    policy: ResolvedPolicy


def install_bundle(store: Store, *, data: bytes, actor: str, lint: Lint, roles: Roles | None = None) -> InstalledBundle:
    """Verify a bundle, unpack it under ``policies/`` in the home, and record its policy.

    It is good if somebody with one of :data:`AUTHOR_ROLES` signed it as themselves, every file is what
    its digest says, the policy resolves to the digest that was signed, from files of the bundle alone,
    and ``lint`` finds nothing. The same bundle again is the entry that exists. ``roles`` default to the
    home's roles file.

    Raises:
        ActionRefused: ``actions.bad-bundle``, after it was recorded as refused; ``actions.halted``;
            while a refused bundle holds promotions, ``actions.old-bundle`` (it was installed before, or
            signed before that one came) and ``actions.signed-in-future``.
        SignatureRefused: ``roles.no-file``; ``bundle.other-policy``: the files changed on the way.
    """
    known = load_roles(store.roles_path) if roles is None else roles
    bundle_digest = sha256_bytes(data)
    with store.read() as history:
        refuse_if_halted(history)
    parent = store.home / POLICIES_DIR
    parent.mkdir(exist_ok=True)
    with locked(store.home / LOCK_FILE):
        bundle, path = _unpacked_into(parent, store, data, known, lint, actor)
        installed = resolve_policy(path)  # still locked: another installer of this policy replaces the directory
    if installed.digest != bundle.policy_digest:
        raise _other_policy(
            "the files of the bundle changed while they were installed", installed, bundle.policy_digest
        )
    record_policy(store, policy=installed, actor=actor)
    entry = _record_installed(store, actor, bundle_digest, bundle)
    return InstalledBundle(entry, path, installed)


def _unpacked_into(
    parent: Path, store: Store, data: bytes, roles: Roles, lint: Lint, actor: str
) -> tuple[PolicyBundle, Path]:
    """The bundle, and its policy's file in a directory of ``parent`` named after the policy."""
    incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=parent))
    try:
        try:
            bundle = _verified(data, roles)
            policy = _unpacked(bundle, incoming, lint)
        except StairlockError as refusal:
            bundle_digest = sha256_bytes(data)
            message = refusal.message.replace(f"{incoming}/", "")
            _record_refused(store, actor, bundle_digest, f"[{refusal.rule}] {message}"[:1000])
            raise ActionRefused(
                "actions.bad-bundle",
                f"the bundle is refused: [{refusal.rule}] {message}",
                got=refusal.got or bundle_digest,
                expected=refusal.expected,
                fix="the policy in force stays, and nothing is promoted until a good bundle is installed: find out who "
                "sent this one",
            ) from refusal
        with store.read() as history:
            _refuse_old(history, bundle, store.now())
        directory = parent / policy.digest.removeprefix("sha256:")
        if directory.exists():
            shutil.rmtree(directory)  # by another bundle with this policy, or half-written
        move_directory(incoming, directory)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return bundle, directory / bundle.policy


def _record_refused(store: Store, actor: str, bundle_digest: str, reason: str) -> Logged[BundleReceived]:
    body = BundleReceived(
        bundle=bundle_digest,
        outcome="refused",
        reason=reason,
        policy=None,
        author=None,
        signed_time=None,
        statement_digest=None,
    )
    with store.write() as transaction:
        latest = transaction.history.latest_bundle()
        if latest is not None and (latest.body.bundle, latest.body.outcome) == (body.bundle, body.outcome):
            return latest
        refuse_if_halted(transaction.history)
        return transaction.append(actor, body)


def _record_installed(store: Store, actor: str, bundle_digest: str, bundle: PolicyBundle) -> Logged[BundleReceived]:
    body = BundleReceived(
        bundle=bundle_digest,
        outcome="installed",
        reason=f"signed by {bundle.author} at {bundle.time}",
        policy=bundle.policy_digest,
        author=bundle.author,
        signed_time=bundle.time,
        statement_digest=sha256_bytes(bundle.payload()),
    )
    with store.write() as transaction:
        _refuse_old(transaction.history, bundle, transaction.now)
        existing = transaction.history.installed_bundle(sha256_bytes(bundle.payload()))
        if existing is not None:
            return existing
        refuse_if_halted(transaction.history)
        return transaction.append(actor, body)


def _refuse_old(history: History, bundle: PolicyBundle, now: datetime) -> None:
    """A hold is lifted by what was signed after it began, and so by somebody who may sign bundles."""
    held = history.latest_bundle()
    if held is None or held.body.outcome == "installed":
        return
    signed = parse_time(bundle.time)
    if signed <= held.time or history.installed_bundle(sha256_bytes(bundle.payload())) is not None:
        raise ActionRefused(
            "actions.old-bundle",
            f"the bundle is older than the one that was refused in entry {held.seq}, and anybody could send it again",
            got=bundle.time,
            expected=f"a bundle that was signed after {timestamp(held.time)}, and never installed",
            fix="let its author pack and sign the policy again (stairlock policy pack)",
        )
    if signed > now + MAX_CLOCK_SKEW:
        raise ActionRefused(
            "actions.signed-in-future",
            "the bundle was signed in the future",
            got=bundle.time,
            expected=f"at most {timestamp(now + MAX_CLOCK_SKEW)}",
            fix="set the signer's clock, and sign it again",
        )


def _verified(data: bytes, roles: Roles) -> PolicyBundle:
    """The bundle, if somebody who may sign one signed it as themselves."""
    envelope = read_bundle_envelope(data)
    person, key = roles.owner_of(envelope.key_id)
    bundle = verify_bundle(envelope, key)
    if bundle.author != person.id:
        raise SignatureRefused(
            "signing.other-signer",
            "the bundle names another author than the key's owner",
            got=bundle.author,
            expected=person.id,
        )
    if not set(person.roles) & set(AUTHOR_ROLES):
        raise SignatureRefused(
            "bundle.author-role",
            f"{person.id} may not sign bundles of policies",
            got=", ".join(person.roles),
            expected=" or ".join(AUTHOR_ROLES),
        )
    return bundle


def _unpacked(bundle: PolicyBundle, folder: Path, lint: Lint) -> ResolvedPolicy:
    """Write the files into an empty folder, and check that they are the policy that was signed."""
    for name, file in bundle.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    policy_path = folder / bundle.policy
    referred_files(policy_path, within=folder)
    policy = resolve_policy(policy_path)
    if policy.digest != bundle.policy_digest:
        raise _other_policy("the policy in the bundle is not the one that was signed for", policy, bundle.policy_digest)
    problems = lint(policy)
    if problems:
        shown = "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise SignatureRefused("bundle.lint", f"the policy has errors: {shown}")
    return policy


def _other_policy(message: str, got: ResolvedPolicy, expected: str) -> SignatureRefused:
    return SignatureRefused("bundle.other-policy", message, got=got.digest, expected=expected)
