"""A gate's result as JUnit XML: one test case per gate, so that CI systems show it as they show tests.

A failed gate is a ``failure``. An inconclusive one is an ``error``: nothing was shown, and a CI
system must not be green on it. A waived one is ``skipped``, with the waiver in its message. The
last case is the decision itself, so that a reader of the XML alone never takes a hold for a pass.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from guards.errors import StairlockError
from guards.gates.verdict import WAIVER_DETAIL, Verdict, explain
from loop.terminal_text import printable

SUITE_NAME = "stairlock gate"
_TAG_OF = {"fail": "failure", "inconclusive": "error", "reject": "failure", "hold": "error"}


def gate_report(
    *,
    policy_name: str,
    outcome: str,
    reasons: Sequence[str],
    verdicts: Iterable[Verdict],
    properties: Mapping[str, str],
    time: datetime,
    wall_s: float,
) -> bytes:
    """The XML of one decision. ``outcome`` is promote, hold or reject; ``properties`` are shown as they are."""
    suite = _new_suite(time, wall_s)
    listed = ElementTree.SubElement(suite, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(listed, "property", name=printable(name), value=printable(value))
    for verdict in verdicts:
        case = _add_case(suite, policy_name, verdict.gate_id)
        if verdict.waived and verdict.outcome == "inconclusive":
            how = verdict.details.get(WAIVER_DETAIL, "")
            ElementTree.SubElement(case, "skipped", message=printable(f"waived {how}; {verdict.reason}"))
        elif verdict.outcome != "pass":
            _add_problem(case, _TAG_OF[verdict.outcome], verdict.outcome, verdict.reason, explain(verdict))
        members = map(explain, verdict.all_members())
        _add_text(case, "system-out", [explain(verdict), *members, *(f"{k}: {v}" for k, v in verdict.details.items())])
    decision = _add_case(suite, policy_name, "decision")
    if outcome != "promote":
        _add_problem(decision, _TAG_OF.get(outcome, "error"), outcome, f"the decision is {outcome}", "\n".join(reasons))
    _add_text(decision, "system-out", [outcome, *reasons])
    return _to_bytes(suite)


def error_report(error: StairlockError, *, time: datetime) -> bytes:
    """The XML of a gate run that ended in a refusal: nothing was decided."""
    suite = _new_suite(time, 0.0)
    case = _add_case(suite, "stairlock", "gate run")
    _add_problem(case, "error", error.rule, error.message, str(error))
    return _to_bytes(suite)


def _new_suite(time: datetime, wall_s: float) -> ElementTree.Element:
    timestamp = time.isoformat(timespec="seconds")
    return ElementTree.Element("testsuite", name=SUITE_NAME, timestamp=timestamp, time=f"{wall_s:.3f}")


def _add_case(suite: ElementTree.Element, policy_name: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=printable(policy_name), name=printable(name), time="0")


def _add_problem(case: ElementTree.Element, tag: str, kind: str, message: str, text: str) -> None:
    problem = ElementTree.SubElement(case, tag, type=printable(kind), message=printable(message))
    problem.text = printable(text, keep_newlines=True)


def _add_text(case: ElementTree.Element, tag: str, lines: Iterable[str]) -> None:
    ElementTree.SubElement(case, tag).text = "\n".join(printable(line) for line in lines)


def _to_bytes(suite: ElementTree.Element) -> bytes:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n"
