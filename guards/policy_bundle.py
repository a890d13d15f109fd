"""Signed bundles: a policy with every file that it refers to, in one file that somebody signed.

A bundle is a DSSE envelope around canonical JSON: the files under paths relative to one folder, with
their digests, which of them is the policy, and its digest once it is resolved. Reading one trusts
nothing in it: the paths stay below the folder, and what the files hold is checked when they are used.

Not covered: whether the policy is good (the linter looks at it), and whether it may come into force
(:mod:`guards.actions.adopt` decides that).
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError, model_validator

from guards.canonical import canonical_bytes, parse_json_strict, sha256_bytes
from guards.errors import EvidenceError, SignatureRefused
from guards.evidence import Digest, Frozen
from guards.ledger import Label, RealTime
from guards.policy import Policy, item_files, resolve_policy
from guards.signing import Envelope, PublicKey, sign_payload, verified_payload
from guards.strict_yaml import load_yaml

BUNDLE_PAYLOAD_TYPE = "application/vnd.stairlock.policy-bundle+json"
MAX_BUNDLE_BYTES = 64 << 20
MAX_FILES = 1000

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}"
BundlePath = Annotated[str, Field(pattern=rf"^{_NAME}(/{_NAME})*$", max_length=400)]
"""A path below the folder: plain names of at most 255 bytes with ``/`` between them. None begins with a dot."""


class BundledFile(Frozen):
    """One file; ``content`` is its bytes in base64."""

    sha256: Digest
    content: str

    @model_validator(mode="after")
    def _is_what_it_says(self) -> BundledFile:
        try:
            data = base64.b64decode(self.content, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("content is not base64") from None
        if sha256_bytes(data) != self.sha256:
            raise ValueError("content is not what sha256 says")
        return self

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        return base64.b64decode(self.content)


class PolicyBundle(Frozen):
    """What is signed. ``policy`` is the path of the policy; ``policy_digest`` that of the resolved policy."""

    schema_: Literal["stairlock/policy-bundle/v1"] = Field(default="stairlock/policy-bundle/v1", alias="schema")
    files: dict[BundlePath, BundledFile] = Field(min_length=1, max_length=MAX_FILES)
    policy: BundlePath
    policy_digest: Digest
    author: Label
    time: RealTime

    @model_validator(mode="after")
    def _is_a_tree(self) -> PolicyBundle:
        if self.policy not in self.files:
            raise ValueError("the policy is not among the files")
        folded = [path.casefold() for path in self.files]
        if len(set(folded)) != len(folded):
            raise ValueError("two paths differ in upper and lower case only")
        for path in folded:
            if any(str(parent) in folded for parent in PurePosixPath(path).parents):
                raise ValueError("a file lies below another file")
        return self

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


def pack_policy(policy_path: Path, *, author: str, time: str) -> PolicyBundle:
    """A policy, its suites, their item files and its banks, under paths relative to the folder that holds them all.

    Raises:
        ConfigError: as :func:`guards.policy.resolve_policy`.
        SignatureRefused: ``bundle.bad-content``: a path that a bundle cannot hold, or too many files.
    """
    resolved = resolve_policy(policy_path)
    paths = referred_files(policy_path)
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    try:
        return PolicyBundle.model_validate(
            {
                "files": {
                    name: {"sha256": sha256_bytes(data), "content": base64.b64encode(data).decode("ascii")}
                    for name, data in contents.items()
                },
                "policy": policy_path.resolve().relative_to(folder).as_posix(),
                "policy_digest": resolved.digest,
                "author": author,
                "time": time,
            }
        )
    except ValidationError as error:
        raise _bad_content(error) from error


def sign_bundle(bundle: PolicyBundle, private_key: Ed25519PrivateKey) -> bytes:
    """The signed bundle, as the bytes of its file.

    Raises:
        SignatureRefused: ``bundle.too-large``.
    """
    data = sign_payload(bundle.payload(), private_key, payload_type=BUNDLE_PAYLOAD_TYPE)
    if len(data) > MAX_BUNDLE_BYTES:
        raise _too_large(len(data))
    return data


def read_bundle_envelope(data: bytes) -> Envelope:
    """The envelope of a bundle from outside; nothing in it is trusted yet.

    Raises:
        SignatureRefused: ``bundle.too-large``, ``bundle.bad-envelope``.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise _too_large(len(data))
    try:
        return Envelope.model_validate(parse_json_strict(data, source="bundle"))
    except (ValidationError, EvidenceError, ValueError, RecursionError) as error:
        raise SignatureRefused(
            "bundle.bad-envelope", "the file is no signed bundle", expected="a DSSE envelope with one signature"
        ) from error


def verify_bundle(envelope: Envelope, key: PublicKey) -> PolicyBundle:
    """Check the envelope's signature with ``key``, and return the bundle under it.

    Raises:
        SignatureRefused: as :func:`guards.signing.verified_payload`; ``bundle.bad-content``.
    """
    payload = verified_payload(envelope, key, payload_type=BUNDLE_PAYLOAD_TYPE)
    try:
        bundle = PolicyBundle.model_validate(parse_json_strict(payload, source="bundle"))
    except ValidationError as error:
        raise _bad_content(error) from error
    except (EvidenceError, ValueError, RecursionError) as error:
        raise SignatureRefused("bundle.bad-content", "what was signed is no bundle of policies") from error
    return bundle


def referred_files(policy_path: Path, *, within: Path | None = None) -> list[Path]:
    """The policy, its suites, the item files of each, and its banks, sorted. None outside ``within`` is opened.

    Raises:
        ConfigError: a file that cannot be read (:mod:`guards.strict_yaml`).
        SignatureRefused: ``bundle.outside``.
    """
    found = {policy_path.resolve()}
    policy = load_yaml(policy_path, Policy)
    for suite in policy.suites.values():
        suite_path = _inside(policy_path.parent / suite, within)
        items = [_inside(suite_path.parent / name, within) for name in item_files(suite_path)]
        found |= {suite_path, *items}
    found |= {_inside(policy_path.parent / bank, within) for bank in policy.banks.values()}
    return sorted(found)


def _inside(path: Path, within: Path | None) -> Path:
    resolved = path.resolve()
    if within is not None and not resolved.is_relative_to(within.resolve()):
        raise SignatureRefused(
            "bundle.outside", "a file of the bundle refers to one that is not in it", got=str(path)[-200:]
        )
    return resolved


def _bad_content(error: ValidationError) -> SignatureRefused:
    first = error.errors()[0]
    where = ".".join(str(part)[:100] for part in first["loc"])
    return SignatureRefused("bundle.bad-content", f"the bundle does not hold together: {where}: {first['msg']}")


def _too_large(n_bytes: int) -> SignatureRefused:
    return SignatureRefused(
        "bundle.too-large", "the bundle is too large", got=f"{n_bytes} bytes", expected=f"at most {MAX_BUNDLE_BYTES}"
    )
