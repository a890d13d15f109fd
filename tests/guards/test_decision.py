"""The decision table, row by row, and everything that must not lead to a promotion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.decision import decide
from guards.errors import StairlockError
from guards.gates.verdict import MCNEMAR, Verdict, explain
from guards.policy import Approvals, Looks, Policy, Waiver, resolve_policy
from tests.gate_world import DIGEST, EVAL_GATE, policy_body, write_policy

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)


def policy(*gate_ids: str) -> Policy:
    return Policy.model_validate(policy_body(*({**EVAL_GATE, "id": gate_id} for gate_id in gate_ids)))


def verdict(gate_id: str, outcome: str) -> Verdict:
    return Verdict.model_validate({"gate_id": gate_id, "kind": "eval", "outcome": outcome, "reason": "because"})


def waiver(gate_id: str = "a", *, hours: float = 1, candidate: str = DIGEST["candidate"]) -> Waiver:
    return Waiver(
        candidate=candidate,
        gate=gate_id,
        reason="the suite is being rotated",
        ticket="T-1",
        approvers=("ann",),
        expires=NOW + timedelta(hours=hours),
    )


@pytest.mark.parametrize(
    ("outcomes", "approved", "waived", "outcome", "waits_for"),
    [
        ("pass pass", True, "", "promote", "nothing"),
        ("pass pass", False, "", "hold", "approvals"),
        ("pass fail", True, "", "reject", "nothing"),
        ("fail inconclusive", True, "", "reject", "nothing"),
        ("fail pass", False, "", "reject", "nothing"),
        ("inconclusive pass", True, "", "hold", "evidence"),
        ("inconclusive pass", False, "", "hold", "evidence"),
        ("inconclusive pass", True, "a", "promote", "nothing"),
        ("inconclusive pass", False, "a", "hold", "approvals"),
        ("inconclusive inconclusive", True, "a", "hold", "evidence"),
        ("inconclusive inconclusive", True, "b", "hold", "evidence"),
        ("fail pass", True, "a", "reject", "nothing"),
    ],
)
def test_the_table(outcomes: str, approved: bool, waived: str, outcome: str, waits_for: str) -> None:
    first, second = outcomes.split()
    waivers = [waiver(waived)] if waived else []
    decision = decide(
        policy("a", "b"), [verdict("a", first), verdict("b", second)], approvals_ok=approved, waivers=waivers
    )
    assert (decision.outcome, decision.waits_for) == (outcome, waits_for)
    assert decision.reasons
    assert [v.waived for v in decision.verdicts] == [
        v.outcome == "inconclusive" and v.gate_id == waived for v in decision.verdicts
    ]


def test_reasons_name_every_gate_that_stands_in_the_way() -> None:
    rejected = decide(
        policy("a", "b", "c"),
        [verdict("a", "fail"), verdict("b", "inconclusive"), verdict("c", "fail")],
        approvals_ok=True,
    )
    assert rejected.reasons == ("a fails: because.", "c fails: because.")
    held = decide(policy("a", "b"), [verdict("a", "pass"), verdict("b", "pass")], approvals_ok=False)
    assert held.reasons == ("2 approvals are needed, with the roles reviewer, safety",)
    found = [verdict("a", "inconclusive"), verdict("b", "pass")]
    waived = decide(policy("a", "b"), found, approvals_ok=True, waivers=[waiver()])
    assert waived.reasons == (
        "1 gates pass, and the approvals are there",
        "a is waived until 2026-11-24T06:00:00+00:00 (T-1, by ann): the suite is being rotated",
    )
    unsigned = decide(policy("a", "b"), found, approvals_ok=False, waivers=[waiver()])
    assert unsigned.reasons == (*held.reasons, waived.reasons[1])


def test_verdicts_that_can_be_read_only_once_all_count() -> None:
    assert decide(policy("a"), iter([verdict("a", "fail")]), approvals_ok=True).outcome == "reject"


def test_a_promotion_without_a_person_says_so() -> None:
    alone = policy("a").model_copy(
        update={"approvals": Approvals(required=0, unattended="I accept promotion without a person")}
    )
    decision = decide(alone, [verdict("a", "pass")], approvals_ok=True)
    assert decision.reasons == ("all 1 gates pass, and nobody had to approve",)


outcomes = st.sampled_from(["pass", "fail", "inconclusive"])


@settings(deadline=None)
@given(st.lists(outcomes, min_size=1, max_size=6), st.booleans(), st.sets(st.integers(0, 5)))
def test_only_all_passed_or_waived_and_approved_is_promoted(found: list[str], approved: bool, waived: set[int]) -> None:
    ids = [f"g{i}" for i in range(len(found))]
    waivers = [waiver(f"g{i}") for i in waived if i < len(found)]
    verdicts = [verdict(i, o) for i, o in zip(ids, found, strict=True)]
    decision = decide(policy(*ids), verdicts, approvals_ok=approved, waivers=waivers)
    good = all(o == "pass" or (o == "inconclusive" and i in waived) for i, o in enumerate(found))
    assert (decision.outcome == "promote") == (good and approved)
    assert (decision.outcome == "reject") == ("fail" in found)


def test_a_waived_verdict_says_by_whom_for_what_and_until_when() -> None:
    (marked,) = decide(policy("a"), [verdict("a", "inconclusive")], approvals_ok=True, waivers=[waiver()]).verdicts
    assert explain(marked) == (
        "a is inconclusive (waived until 2026-11-24T06:00:00+00:00 (T-1, by ann): the suite is being rotated): because."
    )
    # What else it says stays, and what was said of an earlier waiver does not once it is over.
    ruled = verdict("a", "inconclusive").model_copy(update={"details": {"rule": "gate.missing-run"}})
    (also_marked,) = decide(policy("a"), [ruled], approvals_ok=True, waivers=[waiver()]).verdicts
    assert also_marked.details == {**ruled.details, **marked.details}
    (unmarked,) = decide(policy("a"), [marked], approvals_ok=True).verdicts
    assert unmarked == verdict("a", "inconclusive")


def test_of_two_waivers_the_one_that_ends_last_is_shown() -> None:
    both = [waiver(hours=1), waiver(hours=2)]
    decision = decide(policy("a"), [verdict("a", "inconclusive")], approvals_ok=True, waivers=both)
    assert "07:00:00" in decision.reasons[1]


def test_a_verdict_survives_the_ledger_bit_for_bit() -> None:
    before = Verdict(
        gate_id="a",
        kind="eval",
        outcome="pass",
        reason="because",
        observed=0.1 + 0.2,
        bound=-1e-17,
        margin=0.0,
        n=12,
        alpha=0.05 / 3,
        policy_line=7,
        details={"rule": "x"},
    )
    body = before.to_ledger()
    assert not any(isinstance(value, float) for value in body.values())
    assert Verdict.from_ledger(body) == before
    for bad in (
        {**body, "observed": "nan"},
        {**body, "outcome": "passed"},
        {**body, "bound": "x"},
        {"outcome": "pass"},
    ):
        with pytest.raises(StairlockError) as caught:
            Verdict.from_ledger(bad)
        assert caught.value.rule == "gate.bad-verdict"


def test_explain_is_one_sentence_with_the_figures() -> None:
    found = Verdict(
        gate_id="refusal-holds",
        kind="eval",
        outcome="pass",
        reason="all is well",
        observed=-0.0125,
        bound=-0.0712,
        margin=-0.08,
        n=240,
        alpha=0.00625,
        policy_line=45,
    )
    assert explain(found) == (
        "refusal-holds passes: all is well "
        "(observed -0.013, bound -0.071, required -0.080, n 240, alpha 0.00625, policy line 45)."
    )
    conditional = found.model_copy(update={"details": {"test": MCNEMAR}})
    assert "observed -0.013, bound given what changed -0.071, required -0.080" in explain(conditional)
    assert explain(verdict("a", "inconclusive")) == "a is inconclusive: because."


def test_the_policy_digest_covers_looks(tmp_path: Path) -> None:
    plain = resolve_policy(write_policy(tmp_path / "1", policy_body(EVAL_GATE)))
    more_looks = resolve_policy(write_policy(tmp_path / "2", policy_body(EVAL_GATE, planned=2)))
    assert plain.digest != more_looks.digest
    assert Looks(planned=2) == more_looks.policy.looks
