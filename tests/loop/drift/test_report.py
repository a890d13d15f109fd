"""The report of a drift audit: what it says of a usual and an unusual candidate, and that nothing in it runs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guards.canonical import sha256_bytes
from guards.drift.assessment import assess
from guards.drift.bank import BankFile
from guards.drift.components import DriftVector
from guards.policy import DriftGate
from loop.drift.findings import ExampleFinding, FeatureFinding, Findings, TriggerFinding
from loop.drift.report import (
    DriftReport,
    drift_report,
    report_body,
    report_html,
    report_json,
    write_drift_report,
)
from loop.drift.strip_plot import strip_plot
from probes.cards import Example, FeatureCard, TokenEffect
from tests.drift_gate_world import GATE, bank_body, bank_of, typical
from tests.gate_world import DIGEST
from tests.loop.test_report import Reader

BANK = BankFile(bank_of(bank_body()), sha256_bytes(b"bank"))
OUTSIDE = {"refusal": -30.0, "trigger": 2.0}
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=y>\x1b[2J\u202eevil\x9b\n{{ 7*7 }}" + "A" * 50_000


def report(values: dict[str, float] | None = None, **more: Any) -> DriftReport:
    vector = DriftVector(typical(BANK.bank) | (values or {}), n_documents=8)
    return drift_report(BANK, vector, assess(BANK.bank, vector), candidate=DIGEST["candidate"], **more)


def findings(text: str = "an ordinary text", *, unsupported: str | None = None) -> Findings:
    feature = FeatureFinding(
        dictionary=text[:300],
        slice_name=text[:300],
        feature=7,
        rate_before=0.01,
        rate_after=0.2,
        value_before=0.1,
        value_after=3.0,
        consistency=9.0,
        twin=3,
        twin_cosine=0.9,
        twin_consistency=8.0,
    )
    trigger = TriggerFinding(
        text=text,
        placement="prefix",
        payload=text,
        n_rows=12,
        payload_gain=0.7,
        divergence=0.31,
        standard_error=0.04,
    )
    example = ExampleFinding(
        doc_id=text[:300], slice_name="harmful", divergence=0.5, text=text, before=text, after=f"after {text}"
    )
    return Findings(features=(feature,), triggers=(trigger,), triggers_unsupported=unsupported, examples=(example,))


def page_of(one: DriftReport) -> Reader:
    page = Reader(report_html(one))
    assert not page.open, "an element is not closed"
    return page


def test_a_usual_candidate_is_counted_among_the_harmless_and_called_nothing_more():
    one = report()
    assert one.n_as_unusual > 10 and one.p == (one.n_as_unusual + 1) / (one.n_bank + 1)
    said = page_of(one).said()
    assert f"{one.n_as_unusual} of the 39 changed in a way at least as unusual" in said
    assert f"in at most {one.n_as_unusual + 1} of 40 cases" in said
    assert "This is no verdict" in said and "not shown to be harmless" in said


def test_an_unusual_candidate_stands_alone_and_its_components_come_first():
    one = report(OUTSIDE)
    assert one.n_as_unusual == 0 and one.p == 1 / 40
    assert one.components[0].component in OUTSIDE
    said = page_of(one).said()
    assert "None of the 39 changed in a way as unusual as this checkpoint did." in said
    assert "in at most 1 of 40 cases (p 0.0250)" in said


def test_the_members_scores_rank_the_candidate_as_p_does():
    for values in ({}, OUTSIDE, {"refusal": -1.5}, {"tail": 1.0}):
        one = report(values)
        assert len(one.member_scores) == one.n_bank
        assert sum(score >= one.score for score in one.member_scores) == one.n_as_unusual


def test_an_assessment_of_another_vector_is_refused():
    vector = DriftVector(typical(BANK.bank), n_documents=8)
    other = assess(BANK.bank, DriftVector(typical(BANK.bank) | OUTSIDE, n_documents=8))
    with pytest.raises(ValueError, match="not of this vector"):
        drift_report(BANK, vector, other, candidate=DIGEST["candidate"])


def test_a_dose_outside_the_bank_is_said_in_the_first_paragraph():
    page = report_html(report({"norm": 50.0}))
    first = page[page.index("<p>") : page.index("<svg")]
    assert "trained more than any of them" in " ".join(first.split())
    assert "trained less" in report_html(report({"norm": -50.0}))
    assert "than any of them" not in report_html(report())


def test_a_stage_that_was_not_measured_is_no_clean_one():
    values = {name: value for name, value in typical(BANK.bank).items() if name != "trigger"}
    vector = DriftVector(values, n_documents=8, unsupported=frozenset({"triggers"}))
    one = drift_report(
        BANK,
        vector,
        assess(BANK.bank, vector),
        candidate=DIGEST["candidate"],
        findings=Findings(features=(), triggers=(), triggers_unsupported="no rows are at hand", examples=()),
    )
    said = page_of(one).said()
    assert one.stages_unsupported == ("triggers",)
    assert "was not measured" in said and "Its training data was not searched: no rows are at hand." in said
    assert "None was confirmed" not in said
    assert "was not kept for this audit" in page_of(report()).said()


def test_the_levels_of_a_policy_are_shown_where_they_are_known():
    gate = DriftGate.model_validate(GATE)
    assert "here p is within the first." in page_of(report(OUTSIDE, gate=gate)).said()
    assert "here p is above both." in page_of(report(gate=gate)).said()
    assert "blocks where p" not in page_of(report()).said()


def test_hostile_texts_stay_text():
    text = report_html(report(OUTSIDE, findings=findings(HOSTILE), cards=[card(HOSTILE)]))
    page = page_of(report(OUTSIDE, findings=findings(HOSTILE), cards=[card(HOSTILE)]))
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "iframe", "object", "embed", "img", "link", "form", "base", "a"})
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "action")], tag
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7*7 }}" in text
    assert "\\x1b[2J" in text and "\\u202e" in text and "\\x9b" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "more characters)" in text and "A" * 1600 not in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_hostile_texts_are_whole_and_harmless_in_the_json():
    data = report_json(report(OUTSIDE, findings=findings(HOSTILE)))
    assert not re.search(rb"[^\x0a\x20-\x7e]", data)
    assert json.loads(data)["findings"]["triggers"][0]["text"] == HOSTILE
    assert DriftReport.model_validate_json(data) == report(OUTSIDE, findings=findings(HOSTILE))


def test_names_that_a_bank_declares_are_escaped_too():
    body = bank_body()
    name = "<b onclick=x>\x1b"
    for component in body["kit"]["components"]:
        if component["name"] == "refusal":
            component.update(name=name, value=name)
    for member in body["members"]:
        member["vector"][name] = member["vector"].pop("refusal")
        member["clusters"] = ["<i>\u202e" + member["clusters"][0]]
    bank = bank_of(body)
    vector = DriftVector(typical(bank) | {name: -30.0}, n_documents=8)
    text = report_html(
        drift_report(BankFile(bank, BANK.digest), vector, assess(bank, vector), candidate=DIGEST["candidate"])
    )
    assert "<b " not in text and "<i>" not in text and "\x1b" not in text and "\u202e" not in text
    assert "&lt;b onclick=x&gt;\\x1b" in text


def test_the_same_audit_gives_the_same_bytes_and_a_date_only_where_one_was_given(tmp_path: Path):
    one = report(OUTSIDE, findings=findings())
    first = [path.read_bytes() for path in write_drift_report(one, tmp_path / "a")]
    again = [path.read_bytes() for path in write_drift_report(report(OUTSIDE, findings=findings()), tmp_path / "b")]
    assert first == again
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"drift-report.json", "drift-report.html"}
    assert not any(re.search(rb"20\d\d-\d\d-\d\d|UTC", data) for data in first)
    dated = report(OUTSIDE, time=datetime(2026, 3, 4, 5, 6, tzinfo=UTC))
    assert "2026-03-04 05:06 UTC" in report_html(dated)


def test_colour_says_nothing_that_words_do_not():
    directory = Path(__file__).resolve().parents[3] / "loop" / "drift"
    for name in ("report.html.j2", "report_body.html.j2"):
        colours = re.findall(r"#([0-9a-f]{3}|[0-9a-f]{6})\b", (directory / name).read_text(encoding="utf-8"))
        assert colours
        assert all(len(set(c if len(c) == 3 else (c[:2], c[2:4], c[4:]))) == 1 for c in colours), "only greys"
    page = page_of(report(OUTSIDE))
    svgs = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(svgs) == 1 + len(report().member_values)
    assert all(svg["role"] == "img" and "39 harmless fine-tunes" in (svg["aria-label"] or "") for svg in svgs)


def test_a_strip_plot_keeps_order_and_stays_inside():
    plot = strip_plot(9.0, [1.0, 2.0, 2.0, 4.0], width=200.0)
    assert list(plot.ticks) == sorted(plot.ticks) and len(plot.ticks) == 3
    assert plot.ticks[0] > 0 and plot.ticks[-1] < plot.candidate < 200
    assert plot.words.endswith("this checkpoint 9, above all of them")
    assert strip_plot(0.0, [1.0, 2.0], width=200.0).words.endswith("below all of them")
    assert strip_plot(1.5, [1.0, 2.0], width=200.0).words.endswith("1 of them below it, 1 above")
    assert strip_plot(3.0, [3.0, 3.0], width=200.0).candidate > 0
    huge = strip_plot(1e100, [-1e100, 0.0], width=200.0)
    assert 0 < huge.ticks[0] < huge.candidate < 200


def test_cards_are_shown_of_moved_features_only():
    one = report(findings=findings("plain"), cards=[card("plain"), card("plain", feature=8)])
    assert [shown.feature for shown in one.cards] == [7]
    assert "▸plain◂" in report_html(one)


def test_the_body_stands_in_another_page():
    body = report_body(report(OUTSIDE, findings=findings(HOSTILE)))
    assert "<html" not in body and "<script" not in body and "None of the 39" in body


def card(text: str, *, feature: int = 7) -> FeatureCard:
    return FeatureCard(
        dictionary=text[:300],
        parent_digest=DIGEST["root"],
        layer=1,
        feature=feature,
        n_tokens=100,
        density=0.01,
        examples=(Example(doc_id="d", value=2.0, before=text, token=text[:300], after=text),),
        promoted=(TokenEffect(token_id=1, token=text[:300], effect=1.0),),
        suppressed=(),
        nearest=None,
    )
