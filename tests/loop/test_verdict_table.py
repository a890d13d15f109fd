"""The table that a run and a gate end with."""

from __future__ import annotations

import io

import pytest

from guards.evidence import Cost
from loop.console import text_console
from loop.verdict_table import Judged, verdict_table
from tests.judged_home import verdict

COST = Cost(wall_ms=312_400, tokens_out=88_000, tokens_trained=451_200)


def printed(*candidates: Judged, width: int = 120) -> str:
    out = io.StringIO()
    console = text_console(out)
    console.width = width
    console.print(verdict_table(candidates))
    return out.getvalue()


def judged(name: str = "format-only", **changes) -> Judged:
    verdicts = (
        verdict("over-refusal-holds", "fail"),
        verdict("integrity", "inconclusive", observed=None, bound=None, margin=None, n=0),
    )
    fields = {"outcome": "reject", "is_champion": False, "verdicts": verdicts, "cost": COST}
    return Judged(name=name, digest="sha256:" + "ab" * 32, **(fields | changes))


@pytest.mark.parametrize("width", [70, 80, 120])
def test_no_figure_and_no_verdict_is_cut(width: int):
    text = printed(judged(), width=width)
    for expected in ("✗ fail", "? inconclusive", "-0.300", "-0.420", "-0.100", "REJECT", "312 s", "451,200"):
        assert expected in text, expected
    assert max(map(len, text.splitlines())) <= width
    row = next(line for line in text.splitlines() if "✗ fail" in line)
    assert row.split()[-4:] == ["-0.300", "-0.420", "-0.100", "10"]


def test_a_gate_without_figures_has_dashes_and_not_zeros():
    row = next(line for line in printed(judged()).splitlines() if "integrity" in line)
    assert row.split()[-4:] == ["–", "–", "–", "–"]


def test_counts_and_ratios_look_like_what_they_are():
    budget = verdict("budget", "pass", kind="budget", observed=2.0, bound=None, margin=86400.0)
    collapse = verdict("collapse", "pass", kind="collapse", observed=0.934, bound=None, margin=0.8)
    rows = printed(judged(verdicts=(budget, collapse))).splitlines()
    assert rows[1].split()[-4:] == ["2", "–", "86,400", "10"]
    assert rows[2].split()[-4:] == ["0.934", "–", "0.8", "10"]


def test_a_candidate_with_few_gates_is_still_described_whole():
    text = printed(judged(verdicts=(verdict("g", "pass"),), outcome="promote", is_champion=True))
    assert "now champion" in text and "88,000 generated" in text and "✓ pass" in text


def test_a_waived_verdict_says_so_and_candidates_are_apart():
    waived = judged("other", verdicts=(verdict("g", "inconclusive", waived=True),), cost=None)
    text = printed(judged(), waived)
    assert "? inconclusive (waived)" in text
    assert "\n\n" in "\n".join(line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("width", [70, 120])
def test_a_waived_gate_says_until_when(width: int):
    details = {"waived until": "2026-12-01T00:00:00+00:00", "waiver": "until then"}
    waived = verdict("refusal-holds", "inconclusive", waived=True, details=details)
    text = printed(judged(verdicts=(waived,), outcome="hold"), width=width)
    assert "? inconclusive" in text and "waived until 2026-12-01" in text
    assert "-0.300" in text and "-0.420" in text
    assert "waived" not in printed(judged(verdicts=(verdict("a", "inconclusive"),), outcome="hold"))


def test_members_of_a_gate_of_gates_stand_below_it():
    members = (verdict("one", "pass"), verdict("two", "inconclusive"))
    whole = verdict("both", "inconclusive", kind="all_of", observed=None, bound=None, margin=None, members=members)
    rows = [line.rstrip() for line in printed(judged(verdicts=(whole, verdict("g", "pass")))).splitlines()]
    at = next(i for i, row in enumerate(rows) if "both" in row)
    assert "? inconclusive" in rows[at]
    assert "· one" in rows[at + 1] and rows[at + 1].endswith("✓ pass")
    assert "· two" in rows[at + 2] and rows[at + 2].endswith("? inconclusive")
