"""The HTML report: self-contained, without scripts, and whole on disk."""

from __future__ import annotations

import html.parser
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loop.report import MAX_FLIPS_PER_SUITE, render_report, write_report
from tests.judged_home import judged_home, run_report, verdict

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)
VOID = {"meta", "line", "circle", "br", "hr", "img", "link", "input"}


class Reader(html.parser.HTMLParser):
    """Elements with attributes, the text of each kind of element, and whether all of them close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.text.setdefault(tag, []).append(data)

    def said(self, tag: str = "body") -> str:
        return " ".join(" ".join(self.text.get(tag, [])).split())


def test_the_page_says_what_happened(tmp_path: Path):
    home = judged_home(tmp_path)
    page = Reader(render_report(run_report(home), now=NOW))
    said = page.said()
    for expected in (
        "Run demo",
        "format-only: REJECT",
        "improve: PROMOTE",
        "✗ fail",
        "-0.420",
        "45,120",
        "88,000",
        "3 items got worse and 1 better, of 10",
        "90% of it in the models",
        "addition level 2: pass@1 0.55",
        "improve: train from the root",
    ):
        assert expected in said, expected
    assert not page.open, "an element is not closed"


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path):
    text = render_report(run_report(judged_home(tmp_path)), now=NOW)
    page = Reader(text)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "iframe", "object", "embed", "img", "link", "form", "base"})
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")], tag
        assert (attributes.get("href") or "#").startswith("#"), tag
    assert not re.search(r"https?://|@import|url\(", text)
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_colour_says_nothing_that_words_do_not():
    template = (Path(__file__).resolve().parents[2] / "loop" / "report.html.j2").read_text(encoding="utf-8")
    colours = re.findall(r"#([0-9a-f]{3}|[0-9a-f]{6})\b", template)
    assert colours and all(len(set(c if len(c) == 3 else (c[:2], c[2:4], c[4:]))) == 1 for c in colours), "only greys"


def test_only_an_unattended_run_is_called_a_sandbox(tmp_path: Path):
    home = judged_home(tmp_path)
    assert "SANDBOX" in render_report(run_report(home), now=NOW)
    assert "SANDBOX" not in render_report(run_report(home, unattended=False), now=NOW)


def test_flips_are_cut_with_the_command_that_shows_the_rest(tmp_path: Path):
    n = MAX_FLIPS_PER_SUITE + 5
    home = judged_home(tmp_path, scores=[0] * n, champion_scores=[1] * n)
    page = Reader(render_report(run_report(home), now=NOW))
    assert page.text["pre"] and len([tag for tag, _ in page.elements if tag == "pre"]) == 3 * MAX_FLIPS_PER_SUITE
    assert f"5 more: stairlock show {home.candidate[7:19]} --flips --limit 0" in page.said()


def test_a_figure_places_bound_and_requirement_in_order(tmp_path: Path):
    home = judged_home(tmp_path)
    page = Reader(render_report(run_report(home, candidates=run_report(home).candidates[1:]), now=NOW))
    label = next(a["aria-label"] for t, a in page.elements if t == "svg")
    assert label == "observed -0.300, bound -0.420, required -0.100"
    assert len([t for t, _ in page.elements if t == "svg"]) == len(home.verdicts)
    circle = next(a for t, a in page.elements if t == "circle")
    required = next(a for t, a in page.elements if t == "line" and a.get("stroke-width") == "4")
    bound = next(a for t, a in page.elements if t == "line" and a.get("y1") == "5")
    assert float(bound["x1"] or 0) < float(circle["cx"] or 0) < float(required["x1"] or 0) < 160


def test_a_verdict_without_figures_shows_its_reason(tmp_path: Path):
    home = judged_home(tmp_path)
    report = run_report(home)
    open_verdict = verdict("integrity", "inconclusive", kind="integrity", observed=None, bound=None, margin=None, n=0)
    odd = report.candidates[1].__class__(**{**vars(report.candidates[1]), "verdicts": (open_verdict,)})
    page = Reader(render_report(run_report(home, candidates=(odd,)), now=NOW))
    assert not [t for t, _ in page.elements if t == "svg"]
    assert "? inconclusive" in page.said() and open_verdict.reason in page.said()


def test_a_waived_verdict_says_by_whom_for_what_and_until_when(tmp_path: Path):
    home = judged_home(tmp_path)
    report = run_report(home)
    how = "until 2026-12-01T00:00:00+00:00 (T-1, by ana): <b>because</b>"
    waived = verdict("refusal-holds", "inconclusive", waived=True, details={"waiver": how})
    shown = report.candidates[1].__class__(**{**vars(report.candidates[1]), "verdicts": (waived,)})
    page = Reader(render_report(run_report(home, candidates=(shown,)), now=NOW))
    assert f"? inconclusive (waived {how})" in page.said("td") and "b" not in page.text


def test_texts_that_are_withheld_are_said_to_be(tmp_path: Path):
    home = judged_home(tmp_path)
    for run in home.runs.values():
        (run.directory / "texts.jsonl").unlink()
    page = Reader(render_report(run_report(home), now=NOW))
    assert "withheld" in page.said() and "pre" not in page.text


def test_the_report_is_written_whole_under_the_name_of_its_run(tmp_path: Path):
    home = judged_home(tmp_path)
    path = write_report(run_report(home), home.path, now=NOW)
    assert path == home.path / "reports" / "demo.html"
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["demo.html"]


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", "..", "a/b c"])
def test_no_name_of_a_run_leads_out_of_the_reports(tmp_path: Path, name: str):
    home = judged_home(tmp_path)
    path = write_report(run_report(home, run=name), home.path, now=NOW)
    assert path.parent == home.path / "reports" and path.is_file()
