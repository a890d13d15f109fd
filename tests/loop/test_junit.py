"""The XML that CI systems read: never green on what did not pass."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.errors import CheckpointError
from guards.gates.verdict import Verdict
from loop.junit import error_report, gate_report
from tests.judged_home import verdict

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)


def parsed(verdicts: list[Verdict], outcome: str, reasons: tuple[str, ...] = ("why",)) -> ElementTree.Element:
    return ElementTree.fromstring(
        gate_report(
            policy_name="checkpoint",
            outcome=outcome,
            reasons=reasons,
            verdicts=verdicts,
            properties={"candidate": "sha256:" + "a" * 64},
            time=NOW,
            wall_s=12.5,
        )
    )


def problems(suite: ElementTree.Element) -> dict[str, list[str]]:
    return {
        case.get("name", ""): [child.tag for child in case if child.tag != "system-out"]
        for case in suite.findall("testcase")
    }


def test_every_outcome_has_its_own_element():
    verdicts = [
        verdict("good", "pass"),
        verdict("bad", "fail"),
        verdict("open", "inconclusive"),
        verdict("waived", "inconclusive", waived=True),
    ]
    suite = parsed(verdicts, "reject")
    assert problems(suite) == {
        "good": [],
        "bad": ["failure"],
        "open": ["error"],
        "waived": ["skipped"],
        "decision": ["failure"],
    }
    counted = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
    failure = suite.find("testcase[@name='bad']/failure")
    assert failure is not None and "policy line 12" in (failure.text or "")


@pytest.mark.parametrize(("outcome", "element"), [("promote", None), ("hold", "error"), ("reject", "failure")])
def test_the_decision_alone_keeps_a_hold_from_looking_green(outcome: str, element: str | None):
    found = problems(parsed([verdict("good", "pass")], outcome))
    assert found["decision"] == ([] if element is None else [element])


def test_a_waiver_says_by_whom_for_what_and_until_when():
    how = "until 2026-12-01T00:00:00+00:00 (T-1, by ana): the suite is being repaired"
    waived = verdict("waived", "inconclusive", waived=True, details={"waiver": how})
    found = parsed([waived], "promote").find("testcase[@name='waived']/skipped")
    assert found is not None and how in found.get("message", "")


def test_a_waiver_does_not_hide_a_failure():
    assert problems(parsed([verdict("bad", "fail", waived=True)], "reject"))["bad"] == ["failure"]


def test_a_run_that_was_refused_is_an_error():
    error = CheckpointError("manifest.pickle", "a pickle", got="weights.bin", fix="convert it")
    suite = ElementTree.fromstring(error_report(error, time=NOW))
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    found = suite.find("testcase/error")
    assert found is not None and found.get("type") == "manifest.pickle" and "convert it" in (found.text or "")


@given(st.text(min_size=1))
def test_whatever_a_reason_holds_the_xml_can_be_read(text: str):
    suite = parsed([verdict("bad", "fail", reason=text)], "reject", reasons=(text,))
    assert problems(suite)["bad"] == ["failure"]
