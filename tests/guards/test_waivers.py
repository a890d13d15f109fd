"""The one function that decides which waivers are live: who, how many, about what, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guards.canonical import sha256_bytes
from guards.entries import WaiverSigned
from guards.errors import ActionRefused, StairlockError
from guards.ledger import timestamp
from guards.policy import UNATTENDED, Approvals
from guards.signing import Statement, parse_envelope, public_key_of, sign
from guards.waivers import (
    MAX_CLOCK_SKEW,
    MAX_TERM,
    Subject,
    WaiverStanding,
    WaiverStatement,
    live_waivers,
    sign_waiver,
    standing_waivers,
    verify_waiver,
)

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)
CANDIDATE, EVIDENCE, POLICY, OTHER = (sha256_bytes(word.encode()) for word in ("c", "e", "p", "other"))
SUBJECT = Subject(CANDIDATE, EVIDENCE, POLICY)
TERMS = Approvals(required=2, roles=("reviewer", "safety"))
ROLES = {"ana": ("reviewer",), "bo": ("safety", "reviewer"), "cy": ("governance",), "dee": ("safety",)}


def signed(person: str, **changes: Any) -> WaiverSigned:
    """A grant by a person, signed now for two days; ``at`` is when, ``days`` how long."""
    at = changes.pop("at", NOW)
    body: dict[str, Any] = {
        "candidate": CANDIDATE,
        "policy": POLICY,
        "evidence": EVIDENCE,
        "look_seq": 7,
        "gate": "a",
        "decision": "grant",
        "ticket": "T-1",
        "expires": timestamp(NOW + timedelta(days=changes.pop("days", 2))),
        "reason": f"so says {person}",
        "person": person,
        "roles": ROLES[person],
        "key_id": OTHER,
        "signed_time": timestamp(at),
        "envelope": "",
        "statement_digest": OTHER,
        "roles_digest": OTHER,
    }
    return WaiverSigned.model_validate(body | changes)


def objection(person: str, **changes: Any) -> WaiverSigned:
    return signed(person, **({"decision": "reject", "ticket": None, "expires": None} | changes))


def recorded_roles(one: WaiverSigned) -> frozenset[str]:
    return frozenset(one.roles)


def standing(*entries: WaiverSigned, now: datetime = NOW, **changes: Any) -> tuple[WaiverStanding, ...]:
    arguments: dict[str, Any] = {"log_time": now, "roles_of": recorded_roles}
    terms, subject = changes.pop("terms", TERMS), changes.pop("subject", SUBJECT)
    return standing_waivers(terms, subject, entries, now=now, **(arguments | changes))


def is_live(*entries: WaiverSigned, **changes: Any) -> bool:
    found = standing(*entries, **changes)
    return any(one.is_live for one in found)


# How many, and of which roles


@pytest.mark.parametrize(
    ("people", "live"),
    [
        ("", False),
        ("ana", False),
        ("ana ana", False),
        ("ana bo", True),
        ("bo dee", True),  # Bo reviews, Dee keeps safety
        ("ana cy", False),  # nobody keeps safety
        ("ana dee cy", True),
    ],
)
def test_a_waiver_needs_the_people_that_an_approval_needs(people: str, live: bool):
    assert is_live(*(signed(person) for person in people.split())) == live


def test_where_nobody_has_to_approve_one_person_still_signs_a_waiver():
    nobody = Approvals(required=0, unattended=UNATTENDED)
    assert not is_live(terms=nobody)
    assert is_live(signed("cy"), terms=nobody)


def test_a_signature_that_does_not_count_takes_nothing_from_those_that_do():
    def without_cy(one: WaiverSigned) -> frozenset[str]:
        if one.person == "cy":
            raise ActionRefused("roles.unknown-key", "the key belongs to nobody")
        return frozenset(one.roles)

    (found,) = standing(signed("cy"), signed("ana"), signed("bo"), roles_of=without_cy)
    assert found.is_live and found.waiver.approvers == ("ana", "bo") and found.waiver.reason == "so says ana"
    (found,) = standing(signed("cy"), signed("ana"), roles_of=without_cy)
    assert not found.is_live
    assert "1 of 2 signatures" in found.summary and "cy's signature does not count" in found.summary


def test_who_has_lost_every_role_that_they_signed_with_is_not_counted():
    def without_cy(one: WaiverSigned) -> frozenset[str]:
        return frozenset() if one.person == "cy" else frozenset(one.roles)

    three, nobody = TERMS.model_copy(update={"required": 3}), Approvals(required=0, unattended=UNATTENDED)
    (found,) = standing(signed("ana"), signed("bo"), signed("cy"), roles_of=without_cy, terms=three)
    assert not found.is_live
    assert "2 of 3 signatures" in found.summary and "cy's signature does not count" in found.summary
    assert not is_live(signed("cy"), roles_of=without_cy, terms=nobody)


# About exactly this


@pytest.mark.parametrize(
    "change",
    [
        {"candidate": OTHER},
        {"evidence": OTHER},
        {"policy": OTHER},
        {"gate": "b"},
        {"ticket": "T-2"},
        {"expires": timestamp(NOW + timedelta(days=2, microseconds=1))},
    ],
    ids=str,
)
def test_people_must_sign_the_same(change: Mapping[str, Any]):
    assert is_live(signed("ana"), signed("bo"))
    assert not is_live(signed("ana"), signed("bo", **change))


@pytest.mark.parametrize("subject", [Subject(OTHER, EVIDENCE, POLICY), Subject(CANDIDATE, OTHER, POLICY)], ids=str)
def test_another_candidate_or_evidence_is_not_waived(subject: Subject):
    assert standing(signed("ana"), signed("bo"), subject=subject) == ()


def test_where_no_evidence_is_recorded_nothing_is_waived():
    assert standing(signed("ana"), signed("bo"), subject=Subject(CANDIDATE, None, POLICY)) == ()


def test_two_waivers_of_one_gate_are_two():
    longer = {"ticket": "T-2", "days": 3}
    both = [signed("ana"), signed("bo"), signed("ana", **longer), signed("dee", **longer)]
    found = live_waivers(TERMS, SUBJECT, both, now=NOW, log_time=NOW, roles_of=recorded_roles)
    assert [(one.ticket, one.approvers) for one in found] == [("T-1", ("ana", "bo")), ("T-2", ("ana", "dee"))]


# Time


@pytest.mark.parametrize(("microseconds", "live"), [(-1, True), (0, False), (1, False)])
def test_it_is_over_at_its_expiry_to_the_microsecond(microseconds: int, live: bool):
    moment = NOW + timedelta(days=2, microseconds=microseconds)
    assert is_live(signed("ana"), signed("bo"), now=moment) == live


def test_an_expiry_in_the_past_never_was_live():
    assert not is_live(signed("ana", days=0), signed("bo", days=0))
    assert not is_live(signed("ana", days=-1), signed("bo", days=-1))


@pytest.mark.parametrize(("extra", "live"), [(timedelta(), True), (timedelta(microseconds=1), False)], ids=str)
def test_nobody_can_sign_for_more_than_90_days(extra: timedelta, live: bool):
    assert timedelta(days=90) == MAX_TERM
    expires = timestamp(NOW + MAX_TERM + extra)
    assert is_live(signed("ana", expires=expires), signed("bo", expires=expires)) == live


def test_a_later_signature_does_not_stretch_the_term():
    later = NOW + timedelta(days=10)
    expires = timestamp(NOW + timedelta(days=95))
    entries = [signed("ana", expires=expires), signed("bo", expires=expires, at=later)]
    assert not is_live(*entries, now=later), "Ana would have signed for 95 days"


@pytest.mark.parametrize(("early", "live"), [(timedelta(), True), (timedelta(microseconds=1), False)], ids=str)
def test_before_it_was_signed_it_is_not_live(early: timedelta, live: bool):
    """A clock that was set back: now is before the signature, by more than clocks may differ."""
    assert is_live(signed("ana"), signed("bo"), now=NOW - MAX_CLOCK_SKEW - early) == live


def test_a_clock_that_was_set_back_revives_nothing():
    entries = [signed("ana"), signed("bo")]
    assert is_live(*entries, log_time=NOW + timedelta(days=2, microseconds=-1))
    assert not is_live(*entries, log_time=NOW + timedelta(days=2))
    # It may only say that it is later than now, never that it is earlier.
    assert not is_live(*entries, now=NOW + timedelta(days=2), log_time=NOW)


@pytest.mark.parametrize("which", ["now", "log_time"])
def test_a_time_without_a_zone_is_refused(which: str):
    with pytest.raises(StairlockError) as refusal:
        standing(signed("ana"), **{which: NOW.replace(tzinfo=None)})
    assert refusal.value.rule == "waiver.naive-time"


def test_times_of_other_zones_are_the_same_moments():
    there = datetime.fromisoformat("2026-11-26T14:00:00+09:00")  # NOW and two days
    assert not is_live(signed("ana"), signed("bo"), now=there)
    assert is_live(signed("ana"), signed("bo"), now=there - timedelta(seconds=1))


# Objections


def test_one_objection_voids_it_until_the_same_person_signs():
    minute = timedelta(minutes=1)
    entries = [signed("ana"), signed("bo"), objection("cy", at=NOW + minute)]
    (found,) = standing(*entries, now=NOW + minute)
    assert not found.is_live and "cy objects" in found.summary
    assert not is_live(*entries, signed("cy", at=NOW), now=NOW + minute), "signed before the objection"
    assert not is_live(*entries, signed("cy", at=NOW + minute), now=NOW + minute), "signed at the same time"
    assert is_live(*entries, signed("cy", at=NOW + 2 * minute), now=NOW + 2 * minute)


def test_an_objection_stands_whatever_evidence_comes_after_it():
    about_before = objection("cy", evidence=OTHER, policy=OTHER, look_seq=3, at=NOW - timedelta(days=30))
    assert not is_live(about_before, signed("ana"), signed("bo"))
    taken_back_for_an_older_look = signed("cy", look_seq=2, evidence=OTHER)
    assert not is_live(about_before, taken_back_for_an_older_look, signed("ana"), signed("bo"))
    assert is_live(about_before, signed("cy"), signed("ana"), signed("bo"))


def test_an_objection_is_about_its_gate_and_its_candidate():
    assert is_live(objection("cy", gate="b"), objection("cy", candidate=OTHER), signed("ana"), signed("bo"))


def test_who_signed_and_then_objects_objects():
    later = NOW + timedelta(minutes=1)
    assert not is_live(signed("ana"), signed("bo"), objection("bo", at=later), now=later)


# Whatever the order and the times


moments = st.integers(-3, 5).map(lambda days: NOW + timedelta(days=days))
entries_ = st.builds(
    lambda person, gate, evidence, at, days: signed(person, gate=gate, evidence=evidence, at=at, days=days),
    st.sampled_from(sorted(ROLES)),
    st.sampled_from("ab"),
    st.sampled_from([EVIDENCE, OTHER]),
    moments,
    st.integers(-2, 4),
)
objections_ = st.builds(
    lambda person, gate, at: objection(person, gate=gate, at=at),
    st.sampled_from(sorted(ROLES)),
    st.sampled_from("ab"),
    moments,
)


@settings(deadline=None)
@given(st.lists(st.one_of(entries_, objections_), max_size=8), moments, moments)
def test_what_is_live_was_signed_by_enough_people_for_now(
    entries: list[WaiverSigned], now: datetime, log_time: datetime
):
    for waiver in live_waivers(TERMS, SUBJECT, entries, now=now, log_time=log_time, roles_of=recorded_roles):
        assert now < waiver.expires and log_time < waiver.expires
        assert len(set(waiver.approvers)) == len(waiver.approvers) >= 2
        assert {"reviewer", "safety"} <= {role for person in waiver.approvers for role in ROLES[person]}
        for person in waiver.approvers:
            assert any(
                (one.person, one.gate, one.evidence, one.expires)
                == (person, waiver.gate, EVIDENCE, timestamp(waiver.expires))
                and one.signed_time <= timestamp(now + MAX_CLOCK_SKEW)
                for one in entries
            )
    # Fewer entries never make more live, but for objections that are gone.
    grants = [one for one in entries if one.decision == "grant"]
    with_all = live_waivers(TERMS, SUBJECT, grants, now=now, log_time=log_time, roles_of=recorded_roles)
    with_fewer = live_waivers(TERMS, SUBJECT, grants[1:], now=now, log_time=log_time, roles_of=recorded_roles)
    assert {(one.gate, one.expires) for one in with_fewer} <= {(one.gate, one.expires) for one in with_all}


# Statements


def statement(**changes: Any) -> WaiverStatement:
    body: dict[str, Any] = {
        "candidate": CANDIDATE,
        "evidence": EVIDENCE,
        "policy": POLICY,
        "gate": "a",
        "decision": "grant",
        "ticket": "T-1",
        "expires": "2026-12-01T00:00:00.000000Z",
        "reason": "because",
        "time": timestamp(NOW),
        "signer": "ana",
    }
    return WaiverStatement.model_validate(body | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"expires": None},
        {"ticket": None},
        {"ticket": ""},
        {"ticket": " "},
        {"ticket": "T-1\n"},
        {"reason": " \n"},
        {"reason": "x" * 1001},
        {"decision": "reject"},
        {"expires": "2026-12-01T00:00:00Z"},
        {"expires": "2026-12-01T00:00:00.000000"},
        {"expires": "2026-02-31T00:00:00.000000Z"},
        {"candidate": "sha256:*"},
        {"gates": ["a", "b"]},
    ],
    ids=str,
)
def test_what_is_too_wide_cannot_even_be_said(change: dict[str, Any]):
    statement()
    with pytest.raises(ValidationError):
        statement(**change)


def test_a_signature_of_another_type_signs_no_waiver():
    key = Ed25519PrivateKey.generate()
    signoff = Statement(
        candidate=CANDIDATE, evidence=EVIDENCE, policy=POLICY, decision="approve", reason="x", time=timestamp(NOW),
        signer="ana",
    )  # fmt: skip
    for envelope, rule in (
        (sign(signoff, key), "signing.other-type"),
        (sign(signoff, key).replace(b"signoff+json", b"waiver+json"), "signing.bad-signature"),
    ):
        with pytest.raises(StairlockError) as refusal:
            verify_waiver(parse_envelope(envelope), public_key_of(key))
        assert refusal.value.rule == rule
    assert verify_waiver(parse_envelope(sign_waiver(statement(), key)), public_key_of(key)) == statement()
