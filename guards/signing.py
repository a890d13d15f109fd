"""Sign-offs: Ed25519 signatures in DSSE envelopes, and the keys that make them.

A sign-off is a :class:`Statement` about one exact triple of digests (candidate, evidence,
policy). Its canonical JSON is the payload of a DSSE envelope (secure-systems-lab/dsse, protocol
v1.0.2: the signature is over the pre-authentication encoding of payload type and payload). An
envelope here carries one signature, and its payload must be canonical, so that one statement by
one key is always the same bytes.

Private keys are PKCS #8 PEM files that only their owner may read, with or without a passphrase.
A key's id is the sha256 of its 32 public bytes.

Not covered: who holds a key (:mod:`guards.roles` says whose it is); a stolen key; when something
was really signed (``time`` is what the signer says).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import Field, ValidationError, model_validator

from guards.canonical import canonical_bytes, parse_json_strict, sha256_bytes
from guards.entries import Reason
from guards.errors import EvidenceError, SignatureRefused
from guards.evidence import Digest, Frozen
from guards.ledger import Label, RealTime

PAYLOAD_TYPE = "application/vnd.stairlock.signoff+json"
PRIVATE_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"
MAX_ENVELOPE_BYTES = 64 << 10

_PUBLIC_KEY_BYTES = 32
_KEY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class PublicKey(Frozen):
    """A public key as it stands in a ``.pub`` file and in the roles file. ``public_key`` is base64."""

    id: Digest
    public_key: Annotated[str, Field(min_length=44, max_length=44)]

    @model_validator(mode="after")
    def _id_is_its_digest(self) -> PublicKey:
        raw = _base64(self.public_key)
        if raw is None or len(raw) != _PUBLIC_KEY_BYTES:
            raise ValueError("public_key is not the base64 of 32 bytes")
        if self.id != sha256_bytes(raw):
            raise ValueError("id is not the sha256 of public_key")
        return self

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the key."""
        return base64.b64decode(self.public_key)


class Statement(Frozen):
    """What a person signs: their decision, with its reason, on exactly these three digests."""

    schema_: Literal["stairlock/signoff/v1"] = Field(default="stairlock/signoff/v1", alias="schema")
    candidate: Digest
    evidence: Digest
    policy: Digest
    decision: Literal["approve", "reject"]
    reason: Reason
    time: RealTime
    signer: Label

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


class EnvelopeSignature(Frozen):
    """One signature of a DSSE envelope; ``keyid`` is only a hint at which key to try."""

    keyid: Digest
    sig: str


class Envelope(Frozen):
    """A DSSE envelope with one signature; payload and signature are base64."""

    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: Annotated[tuple[EnvelopeSignature, ...], Field(min_length=1, max_length=1)]

    @property
    def key_id(self) -> str:
        """The key that the envelope claims to be signed with."""
        return self.signatures[0].keyid

    def to_bytes(self) -> bytes:
        """Canonical JSON of the envelope."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


@dataclass(frozen=True)
class KeyFiles:
    """Where a new key pair lies."""

    private: Path
    public: Path
    key: PublicKey


def new_key(directory: Path, name: str, *, passphrase: bytes | None = None) -> KeyFiles:
    """Make a key pair: ``NAME.key`` (readable by its owner alone) and ``NAME.pub``; never overwrites.

    Raises:
        SignatureRefused: ``signing.bad-key-name``, ``signing.key-exists``, ``signing.empty-passphrase``.
    """
    if not _KEY_NAME.fullmatch(name):
        raise SignatureRefused(
            "signing.bad-key-name",
            "a key's name becomes a file name",
            got=repr(name[:100]),
            expected="letters, digits, '.', '_' and '-', at most 64",
        )
    if passphrase is not None and not passphrase:
        raise SignatureRefused("signing.empty-passphrase", "the passphrase is empty", fix="give one, or none at all")
    files = (directory / f"{name}{PRIVATE_SUFFIX}", directory / f"{name}{PUBLIC_SUFFIX}")
    private_key = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase) if passphrase is not None else NoEncryption()
    key = public_key_of(private_key)
    directory.mkdir(parents=True, exist_ok=True)
    _write_new(files[0], private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
    try:
        _write_new(files[1], canonical_bytes(key.model_dump()) + b"\n", mode=0o644)
    except BaseException:
        files[0].unlink()
        raise
    return KeyFiles(private=files[0], public=files[1], key=key)


def load_private_key(path: Path, *, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        SignatureRefused: ``signing.no-key``, ``signing.key-exposed`` (others may read the file),
            ``signing.passphrase-needed``, ``signing.bad-key`` (also for a wrong passphrase),
            ``signing.not-ed25519``.
    """
    try:
        with path.open("rb") as handle:
            mode = stat.S_IMODE(os.fstat(handle.fileno()).st_mode)
            pem = handle.read()
    except OSError as error:
        raise SignatureRefused(
            "signing.no-key", f"{path} cannot be read ({error.strerror})", fix="make a key: stairlock key new NAME"
        ) from error
    if mode & 0o077:
        raise SignatureRefused(
            "signing.key-exposed",
            f"others than its owner may read {path}",
            got=f"{mode:04o}",
            expected="0600",
            fix=f"chmod 600 {path}; if others could really read it, make a new key and replace this one in the roles",
        )
    try:
        private_key = load_pem_private_key(pem, password=passphrase)
    except TypeError as error:
        # cryptography's way of saying that there is a passphrase and none was given, or the reverse
        raise SignatureRefused(
            "signing.passphrase-needed" if passphrase is None else "signing.bad-key",
            f"{path}: {error}",
            fix="give the passphrase that the key was made with",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureRefused(
            "signing.bad-key", f"{path} is not a private key that this passphrase opens", fix="check both"
        ) from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise SignatureRefused(
            "signing.not-ed25519", f"{path} holds another kind of key", expected="Ed25519", fix="stairlock key new NAME"
        )
    return private_key


def public_key_of(private_key: Ed25519PrivateKey) -> PublicKey:
    """The public half of a key, with its id."""
    raw = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return PublicKey(id=sha256_bytes(raw), public_key=base64.b64encode(raw).decode("ascii"))


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: type and payload, each behind its length in bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: Statement, private_key: Ed25519PrivateKey) -> bytes:
    """A signed envelope around ``statement``, as bytes."""
    return sign_payload(statement.payload(), private_key, payload_type=PAYLOAD_TYPE)


def sign_payload(payload: bytes, private_key: Ed25519PrivateKey, *, payload_type: str) -> bytes:
    """A signed envelope around bytes of a type; a signature of one type counts for nothing as another."""
    signature = private_key.sign(pre_authentication_encoding(payload_type, payload))
    envelope = Envelope(
        payload=base64.b64encode(payload).decode("ascii"),
        payloadType=payload_type,
        signatures=(
            EnvelopeSignature(keyid=public_key_of(private_key).id, sig=base64.b64encode(signature).decode("ascii")),
        ),
    )
    return envelope.to_bytes()


def parse_envelope(data: bytes) -> Envelope:
    """Read an envelope from outside; nothing in it is trusted yet.

    Raises:
        SignatureRefused: ``signing.bad-envelope``.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise _bad_envelope(f"{len(data)} bytes are too many")
    try:
        return Envelope.model_validate(parse_json_strict(data, source="envelope"))
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad_envelope(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    except (EvidenceError, ValueError, RecursionError) as error:
        raise _bad_envelope(f"not JSON that can be read ({error})") from error


def verify(envelope: Envelope, key: PublicKey) -> Statement:
    """Check the envelope's signature with ``key``, and return the statement under it.

    Raises:
        SignatureRefused: ``signing.other-type``, ``signing.other-key``, ``signing.bad-signature``,
            ``signing.bad-statement`` (signed, but no canonical statement).
    """
    return _statement(verified_payload(envelope, key, payload_type=PAYLOAD_TYPE))


def verified_payload(envelope: Envelope, key: PublicKey, *, payload_type: str) -> bytes:
    """What was signed with ``key``, as a payload of this type.

    Raises:
        SignatureRefused: ``signing.other-type``, ``signing.other-key``, ``signing.bad-envelope``,
            ``signing.bad-signature``.
    """
    # (1) the payload is of our type: a signature made for another purpose counts for nothing here
    _refuse_other_type(envelope, payload_type)
    # (2) the signature is by this key
    if envelope.key_id != key.id:
        raise SignatureRefused("signing.other-key", "signed with another key", got=envelope.key_id, expected=key.id)
    payload, signature = _base64(envelope.payload), _base64(envelope.signatures[0].sig)
    if payload is None or signature is None:
        raise _bad_envelope("payload and signature must be base64, with padding and nothing else")
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(
            signature, pre_authentication_encoding(envelope.payload_type, payload)
        )
    except (InvalidSignature, ValueError) as error:
        raise SignatureRefused(
            "signing.bad-signature",
            "the signature does not verify",
            got=f"a signature said to be by {key.id}",
            fix="sign again; if nobody touched the envelope, its sender is not who they say",
        ) from error
    return payload


def unverified_statement(envelope: Envelope) -> Statement:
    """What the envelope says. Who signed it, if anybody did, is not checked: for readers without the key.

    Raises:
        SignatureRefused: ``signing.other-type``, ``signing.bad-envelope``, ``signing.bad-statement``.
    """
    return _statement(unverified_payload(envelope, payload_type=PAYLOAD_TYPE))


def unverified_payload(envelope: Envelope, *, payload_type: str) -> bytes:
    """The payload of an envelope of this type; nobody checked who signed it.

    Raises:
        SignatureRefused: ``signing.other-type``, ``signing.bad-envelope``.
    """
    _refuse_other_type(envelope, payload_type)
    payload = _base64(envelope.payload)
    if payload is None:
        raise _bad_envelope("the payload must be base64, with padding and nothing else")
    return payload


def _statement(payload: bytes) -> Statement:
    """A statement, written in the one canonical way."""
    try:
        statement = Statement.model_validate(parse_json_strict(payload, source="statement"))
    except (ValidationError, EvidenceError, ValueError, RecursionError) as error:
        raise SignatureRefused("signing.bad-statement", "what was signed is no sign-off statement") from error
    if statement.payload() != payload:
        raise SignatureRefused("signing.bad-statement", "the signed statement is not canonical JSON")
    return statement


def _refuse_other_type(envelope: Envelope, payload_type: str) -> None:
    if envelope.payload_type != payload_type:
        raise SignatureRefused(
            "signing.other-type",
            "the envelope was signed for another purpose",
            got=envelope.payload_type[:200],
            expected=payload_type,
        )


def _base64(text: str) -> bytes | None:
    """Decoded bytes, or None unless ``text`` is exactly how they are encoded."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode("ascii") == text else None


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise SignatureRefused(
            "signing.key-exists", f"{path} exists, and a key is never overwritten", fix="choose another name"
        ) from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _bad_envelope(message: str) -> SignatureRefused:
    return SignatureRefused("signing.bad-envelope", message, expected="a DSSE envelope with one signature")
