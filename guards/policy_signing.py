"""What people sign about policies: that one may come into force in place of another.

A statement names both by digest, so that it is about this edit of this policy and nothing else. It is
signed like a sign-off (:mod:`guards.signing`), under a payload type of its own, so that neither
can pass for the other.

Not covered: whether the person read either policy.
"""

from __future__ import annotations

from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from guards.canonical import canonical_bytes, parse_json_strict
from guards.entries import Reason
from guards.errors import EvidenceError, SignatureRefused
from guards.evidence import Digest, Frozen
from guards.ledger import Label, RealTime
from guards.signing import Envelope, PublicKey, sign_payload, unverified_payload, verified_payload

POLICY_PAYLOAD_TYPE = "application/vnd.stairlock.policy-signoff+json"


class PolicyStatement(Frozen):
    """What a person signs: may ``new`` come into force in place of ``old``, and why."""

    schema_: Literal["stairlock/policy-signoff/v1"] = Field(default="stairlock/policy-signoff/v1", alias="schema")
    old: Digest
    new: Digest
    decision: Literal["approve", "reject"]
    reason: Reason
    time: RealTime
    signer: Label

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


def sign_policy_statement(statement: PolicyStatement, private_key: Ed25519PrivateKey) -> bytes:
    """A signed envelope around the statement, as bytes."""
    return sign_payload(statement.payload(), private_key, payload_type=POLICY_PAYLOAD_TYPE)


def verify_policy_statement(envelope: Envelope, key: PublicKey) -> PolicyStatement:
    """Check the envelope's signature with ``key``, and return the statement under it.

    Raises:
        SignatureRefused: as :func:`guards.signing.verified_payload`; ``signing.bad-statement``.
    """
    return _statement(verified_payload(envelope, key, payload_type=POLICY_PAYLOAD_TYPE))


def unverified_policy_statement(envelope: Envelope) -> PolicyStatement:
    """What the envelope says. Who signed it, if anybody did, is not checked.

    Raises:
        SignatureRefused: as :func:`guards.signing.unverified_payload`; ``signing.bad-statement``.
    """
    return _statement(unverified_payload(envelope, payload_type=POLICY_PAYLOAD_TYPE))


def _statement(payload: bytes) -> PolicyStatement:
    try:
        statement = PolicyStatement.model_validate(parse_json_strict(payload, source="statement"))
    except (ValidationError, EvidenceError, ValueError, RecursionError) as error:
        raise SignatureRefused("signing.bad-statement", "what was signed is no statement about a policy") from error
    if statement.payload() != payload:
        raise SignatureRefused("signing.bad-statement", "the signed statement is not canonical JSON")
    return statement
