"""Keys, envelopes and the roles file; DSSE against a second implementation."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from guards.canonical import canonical_bytes, sha256_bytes
from guards.errors import SignatureRefused, StairlockError
from guards.policy import Approvals
from guards.roles import Roles, SignOffRole, load_roles
from guards.signing import (
    PAYLOAD_TYPE,
    PublicKey,
    Statement,
    load_private_key,
    new_key,
    parse_envelope,
    pre_authentication_encoding,
    public_key_of,
    sign,
    verify,
)
from tests.store_world import rule_of

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
PUBLIC = public_key_of(KEY)
DIGEST = "sha256:" + "ab" * 32
STATEMENT = Statement(
    candidate=DIGEST,
    evidence=DIGEST,
    policy=DIGEST,
    decision="approve",
    reason="I read it",
    time="2026-11-24T05:00:00.000000Z",
    signer="ana",
)


# Statements and envelopes


def test_a_statement_survives_signing_and_verifying():
    envelope = sign(STATEMENT, KEY)
    assert verify(parse_envelope(envelope), PUBLIC) == STATEMENT
    assert parse_envelope(envelope).to_bytes() == envelope


@given(
    reason=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50).filter(str.strip),
    signer=st.text("abcdefghij .@-", min_size=1, max_size=20),
)
def test_any_statement_survives(reason: str, signer: str):
    statement = STATEMENT.model_copy(update={"reason": reason, "signer": signer})
    assert verify(parse_envelope(sign(statement, KEY)), PUBLIC) == statement


def test_the_encoding_is_the_one_of_the_specification():
    # The example of secure-systems-lab/dsse, protocol.md.
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_another_implementation_accepts_our_envelope():
    envelope = OtherEnvelope.from_dict(json.loads(sign(STATEMENT, KEY)))
    theirs = SSlibKey.from_crypto(KEY.public_key(), keyid=PUBLIC.id)
    assert list(envelope.verify([theirs], threshold=1)) == [PUBLIC.id]
    stranger = SSlibKey.from_crypto(OTHER_KEY.public_key(), keyid=PUBLIC.id)
    with pytest.raises(VerificationError):
        envelope.verify([stranger], threshold=1)


def test_two_people_are_counted_by_another_implementation():
    ours, theirs = (json.loads(sign(STATEMENT, key)) for key in (KEY, OTHER_KEY))
    both = OtherEnvelope.from_dict({**ours, "signatures": ours["signatures"] + theirs["signatures"]})
    keys = [SSlibKey.from_crypto(k.public_key(), keyid=public_key_of(k).id) for k in (KEY, OTHER_KEY)]
    assert len(both.verify(keys, threshold=2)) == 2


def test_we_accept_the_envelope_of_another_implementation():
    envelope = OtherEnvelope(STATEMENT.payload(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(KEY, SSlibKey.from_crypto(KEY.public_key(), keyid=PUBLIC.id)))
    assert verify(parse_envelope(json.dumps(envelope.to_dict()).encode()), PUBLIC) == STATEMENT


def signed_bytes(payload: bytes, payload_type: str = PAYLOAD_TYPE, key: Ed25519PrivateKey = KEY) -> bytes:
    """An envelope with a good signature around anything."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return canonical_bytes(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [{"keyid": public_key_of(key).id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def edited(**changes: Any) -> bytes:
    return canonical_bytes(json.loads(sign(STATEMENT, KEY)) | changes)


SIGNATURE = json.loads(sign(STATEMENT, KEY))["signatures"][0]
PAYLOAD = json.loads(sign(STATEMENT, KEY))["payload"]


@pytest.mark.parametrize(
    ("envelope", "rule"),
    [
        (
            edited(payload=base64.b64encode(STATEMENT.payload().replace(b"approve", b"reject")).decode()),
            "bad-signature",
        ),
        (edited(signatures=[{**SIGNATURE, "sig": base64.b64encode(b"\0" * 64).decode()}]), "bad-signature"),
        (edited(signatures=[{**SIGNATURE, "sig": ""}]), "bad-signature"),
        (edited(signatures=[{**SIGNATURE, "sig": "!"}]), "bad-envelope"),
        (edited(payload=PAYLOAD + "\n"), "bad-envelope"),
        (edited(payload=PAYLOAD.rstrip("=") + "==="), "bad-envelope"),
        (edited(signatures=[]), "bad-envelope"),
        (edited(signatures=[SIGNATURE, SIGNATURE]), "bad-envelope"),
        (edited(signatures=[{**SIGNATURE, "keyid": public_key_of(OTHER_KEY).id}]), "other-key"),
        (edited(more=1), "bad-envelope"),
        (edited(payloadType="application/json"), "other-type"),
        (edited(payload_type=PAYLOAD_TYPE), "bad-envelope"),
        (signed_bytes(STATEMENT.payload(), key=OTHER_KEY), "other-key"),
        (signed_bytes(STATEMENT.payload(), "application/vnd.other+json"), "other-type"),
        (signed_bytes(b"not json"), "bad-statement"),
        (signed_bytes(b"{}"), "bad-statement"),
        (signed_bytes(STATEMENT.payload() + b" "), "bad-statement"),
        (signed_bytes(STATEMENT.payload()[:-1] + b',"signer":"bo"}'), "bad-statement"),
        (signed_bytes(canonical_bytes({**json.loads(STATEMENT.payload()), "decision": "maybe"})), "bad-statement"),
        (signed_bytes(canonical_bytes({**json.loads(STATEMENT.payload()), "reason": "  "})), "bad-statement"),
        (signed_bytes(canonical_bytes({**json.loads(STATEMENT.payload()), "schema": "v0"})), "bad-statement"),
        (b"", "bad-envelope"),
        (b"[" * 5000, "bad-envelope"),
        (b'{"payload": ' + b"9" * 5000 + b"}", "bad-envelope"),
        (b"\xff\xfe", "bad-envelope"),
        (b" " * (1 << 17), "bad-envelope"),
    ],
)
def test_an_envelope_that_is_not_one_is_refused(envelope: bytes, rule: str):
    assert rule_of(lambda: verify(parse_envelope(envelope), PUBLIC)) == f"signing.{rule}"


@given(st.binary(max_size=300))
def test_noise_is_no_envelope(noise: bytes):
    assert rule_of(lambda: parse_envelope(noise)) == "signing.bad-envelope"


@given(bit=st.integers(0, 8 * len(sign(STATEMENT, KEY)) - 1))
def test_no_bit_of_an_envelope_can_change(bit: int):
    """Whatever still verifies says exactly what was signed."""
    changed = bytearray(sign(STATEMENT, KEY))
    changed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(SignatureRefused):
        verify(parse_envelope(bytes(changed)), PUBLIC)


# Keys


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_new_key_signs_and_only_its_owner_may_read_it(tmp_path: Path, passphrase: bytes | None):
    files = new_key(tmp_path / "keys", "ana", passphrase=passphrase)
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    assert (files.private.name, files.public.name) == ("ana.key", "ana.pub")
    private_key = load_private_key(files.private, passphrase=passphrase)
    read = PublicKey.model_validate_json(files.public.read_text())
    assert read == files.key == public_key_of(private_key)
    assert verify(parse_envelope(sign(STATEMENT, private_key)), read) == STATEMENT
    assert read.id == sha256_bytes(read.raw)


def test_a_passphrase_is_needed_where_there_is_one(tmp_path: Path):
    private = new_key(tmp_path, "ana", passphrase=b"correct horse").private
    assert b"ENCRYPTED" in private.read_bytes()
    assert rule_of(lambda: load_private_key(private)) == "signing.passphrase-needed"
    assert rule_of(lambda: load_private_key(private, passphrase=b"wrong")) == "signing.bad-key"
    open_key = new_key(tmp_path, "bo").private
    assert rule_of(lambda: load_private_key(open_key, passphrase=b"needless")) == "signing.bad-key"
    assert rule_of(lambda: new_key(tmp_path, "cy", passphrase=b"")) == "signing.empty-passphrase"


def test_a_key_is_never_overwritten(tmp_path: Path):
    before = new_key(tmp_path, "ana").private.read_bytes()
    assert rule_of(lambda: new_key(tmp_path, "ana")) == "signing.key-exists"
    assert (tmp_path / "ana.key").read_bytes() == before
    (tmp_path / "bo.pub").write_text("somebody else's")
    assert rule_of(lambda: new_key(tmp_path, "bo")) == "signing.key-exists"
    assert not (tmp_path / "bo.key").exists()


@pytest.mark.parametrize("name", ["", "../ana", "a/b", ".hidden", "-rf", "a b", "a\n", "x" * 65, "é"])
def test_a_key_name_is_a_file_name(tmp_path: Path, name: str):
    assert rule_of(lambda: new_key(tmp_path, name)) == "signing.bad-key-name"
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_may_read_is_refused(tmp_path: Path):
    private = new_key(tmp_path, "ana").private
    for mode in (0o640, 0o604, 0o660):
        private.chmod(mode)
        assert rule_of(lambda: load_private_key(private)) == "signing.key-exposed"
    private.chmod(0o400)
    load_private_key(private)


def test_files_that_are_no_keys_are_refused(tmp_path: Path):
    assert rule_of(lambda: load_private_key(tmp_path / "none.key")) == "signing.no-key"
    assert rule_of(lambda: load_private_key(tmp_path)) == "signing.no-key"
    path = tmp_path / "bad.key"
    path.touch(mode=0o600)
    assert rule_of(lambda: load_private_key(path)) == "signing.bad-key"
    other_kind = generate_private_key(SECP256R1())
    path.write_bytes(other_kind.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert rule_of(lambda: load_private_key(path)) == "signing.not-ed25519"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": DIGEST},
        {"public_key": public_key_of(OTHER_KEY).public_key},
        {"public_key": "A" * 44},
        {"public_key": base64.b64encode(b"\x01" * 31).decode()},
        {"comment": "mine"},
    ],
    ids=str,
)
def test_a_public_key_names_itself(changes: dict[str, str]):
    with pytest.raises(ValueError):
        PublicKey.model_validate(PUBLIC.model_dump() | changes)


# The roles file


def roles_yaml(*people: dict[str, Any]) -> str:
    return json.dumps({"schema": "stairlock/roles/v1", "people": people})  # JSON is YAML too


def entry(name: str, key: Ed25519PrivateKey = KEY, **changes: Any) -> dict[str, Any]:
    keys = [public_key_of(key).model_dump()]
    return {"id": name, "name": name.title(), "roles": ["reviewer"], "keys": keys} | changes


def test_a_roles_file_in_the_form_that_the_documentation_shows(tmp_path: Path):
    public_line = new_key(tmp_path, "ana").public.read_text().strip()
    path = tmp_path / "roles.yaml"
    path.write_text(
        "schema: stairlock/roles/v1\n"
        "services: [ci-runner]\n"
        "people:\n"
        "  - id: ana\n"
        "    name: Ana Ruiz\n"
        "    roles: [reviewer, safety]\n"
        "    accounts: [ana.ruiz]\n"
        "    keys:\n"
        f"      - {public_line}\n"
    )
    roles = load_roles(path)
    key_id = json.loads(public_line)["id"]
    person, key = roles.owner_of(key_id)
    assert (person.id, key.id) == ("ana", key_id)
    assert all(person.is_known_as(name) for name in ("ana", "ANA RUIZ", "Ana.Ruiz", " ana "))
    assert not person.is_known_as("an")
    assert all(roles.knows(name) for name in ("ana", "Ana.Ruiz", "CI-runner "))
    assert not person.is_known_as("ci-runner") and not roles.knows("ci")
    assert rule_of(lambda: roles.owner_of(DIGEST)) == "roles.unknown-key"
    before = roles.digest
    path.write_text(path.read_text().replace("safety", "governance"))
    assert load_roles(path).digest != before


def test_without_a_roles_file_nobody_may_sign(tmp_path: Path):
    assert rule_of(lambda: load_roles(tmp_path / "roles.yaml")) == "roles.no-file"


@pytest.mark.parametrize(
    "text",
    [
        roles_yaml(),
        roles_yaml(entry("ana"), entry("bo")),  # one key, two people
        roles_yaml(entry("ana"), entry("ANA", OTHER_KEY)),  # one name, two people
        roles_yaml(entry("ana", accounts=["bo"]), entry("bo", OTHER_KEY)),
        roles_yaml(entry("ana", keys=[PUBLIC.model_dump(), PUBLIC.model_dump()])),
        roles_yaml(entry("ana", keys=[])),
        roles_yaml(entry("ana", roles=[])),
        roles_yaml(entry("ana", roles=["reveiwer"])),
        roles_yaml(entry("ana", admin=True)),
        roles_yaml(entry("a\x07na")),
        roles_yaml(entry("ana", accounts=["bot"])).removesuffix("}") + ', "services": ["BOT"]}',  # a person's account
        "schema: stairlock/roles/v2\npeople: []\n",
        "",
    ],
    ids=range(13),
)
def test_a_roles_file_that_is_not_one_is_refused_with_its_place(tmp_path: Path, text: str):
    path = tmp_path / "roles.yaml"
    path.write_text(text)
    with pytest.raises(StairlockError) as refusal:
        load_roles(path)
    assert refusal.value.rule.startswith("yaml.")
    assert refusal.value.message.startswith(f"{path}:1:")


def test_roles_are_those_that_a_policy_can_ask_for():
    asked_for = Approvals.model_fields["roles"].annotation
    assert get_args(get_args(asked_for)[0]) == get_args(SignOffRole)
    assert Roles.model_fields["people"].is_required()
