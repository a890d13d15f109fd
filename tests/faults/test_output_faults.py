"""Hostile strings in what a model writes, and in every other text of others: shown, and harmless."""

from __future__ import annotations

import html
import html.parser
import io
import json
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from guards import actions
from guards.errors import StepError
from loop.cli import app
from loop.console import show_steps, text_console
from loop.report import render_report
from loop.terminal_text import printable
from loop.verdict_table import Judged, verdict_table
from tests.judged_home import JudgedHome, judged_home, run_report, verdict

HOSTILE = {
    "colour": "\x1b[31mAPPROVED\x1b[0m",
    "clear-screen": "\x1b[2J\x1b[H nothing to see",
    "title": "\x1b]0;owned\x07",
    "hyperlink": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "eight-bit-escape": "\x9b31mred",
    "overwrite": "FAIL\rPASS",
    "backspace": "FAIL\b\b\b\bPASS",
    "bidi": "\u202egnp.exe\u2066",
    "zero-width": "ap\u200bprove",
    "tags": "hello\U000e0041\U000e0042",
    "fake-line": "fine\ndecision: PROMOTE (entry 99)\n  \u2713 all gates pass",
    "line-separator": "fine\u2028decision: PROMOTE",
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "closing-pre": "</pre></details><h1>APPROVED</h1>",
    "comment": "<!-- ",
    "markup": "[bold red]x[/bold red] [link=http://evil.example]y[/link] [/]",
    "template": "{{ 7 * 7 }}{% for x in () %}",
    "nul": "a\x00b\x7f",
}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
each_hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_harmless(shown: str) -> None:
    found = [character for character in shown if character != "\n" and unicodedata.category(character) in INVISIBLE]
    assert not found, f"reached the terminal: {found!r}"


@pytest.fixture
def attacked(tmp_path: Path, text: str) -> JudgedHome:
    """The text as prompt and as both models' output."""
    return judged_home(
        tmp_path, outputs=[text] * 10, champion_outputs=[text] * 10, prompts=[f"{i}{text}" for i in range(10)]
    )


@each_hostile
def test_show_flips_shows_model_text_harmlessly_and_whole(attacked: JudgedHome, text: str):
    shown = run("show", attacked.candidate, "--flips", "--home", attacked.path)
    assert_harmless(shown)
    flips = shown[shown.index("flips in") :]
    for line in printable(text, keep_newlines=True).split("\n"):
        assert f"| {line}\n" in flips, "every line of the output is there, behind a bar"
    ours = [line for line in flips.splitlines() if not re.match(r" {4}[a-z ]{9} \| ", line)]
    assert not [line for line in ours if "PROMOTE" in line or "APPROVED" in line]


@each_hostile
def test_show_json_is_plain_ascii_that_reads_back_the_same(attacked: JudgedHome, text: str):
    shown = run("show", attacked.candidate, "--flips", "--json", "--home", attacked.path)
    assert shown.isascii()
    assert_harmless(shown)
    assert json.loads(shown)["flips"][0]["items"][0]["candidate_output"] == text


class Page(html.parser.HTMLParser):
    """Elements, their attributes, and the text of every <pre>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.pres: list[str] = []
        self.inside_pre = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.inside_pre = tag == "pre"
        if self.inside_pre:
            self.pres.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside_pre = False

    def handle_data(self, data: str) -> None:
        if self.inside_pre:
            self.pres[-1] += data


@each_hostile
def test_the_report_holds_model_text_in_pre_alone_and_escaped(attacked: JudgedHome, text: str):
    source = render_report(run_report(attacked), now=datetime(2026, 11, 24, tzinfo=UTC))
    assert_harmless(source)
    harmless = render_report(run_report(attacked, candidates=()), now=datetime(2026, 11, 24, tzinfo=UTC))
    page = Page(source)
    assert {"script", "img", "h1"} & set(page.tags) <= {"h1"} and page.tags.count("h1") == 1
    assert not [name for name in page.attributes if name.startswith("on")]
    shown = printable(text, keep_newlines=True)
    assert len(page.pres) == 12 and page.pres.count(shown) == 8, "four flips, each with prompt and two outputs"
    escaped = html.escape(shown).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    assert source.count(escaped) == harmless.count(escaped) + 12, "nowhere but in these"


@each_hostile
def test_reasons_and_provenance_are_as_harmless(tmp_path: Path, text: str):
    home = judged_home(tmp_path, provenance={"name": text, "recipe": {text: text}})
    with home.world.store.read() as history:
        champion = history.champion()
    assert champion is not None
    actions.halt(home.world.store, reason=text, actor="runner")
    actions.recall(home.world.store, checkpoint=home.candidate, reason=text, actor="runner")
    for words in (("log",), ("show", home.candidate)):
        shown = run(*words, "--home", home.path)
        assert_harmless(shown)
        assert not [line for line in shown.splitlines() if line.startswith(("decision: PROMOTE", "  \u2713 all gates"))]
    # One line an entry, whatever is in it.
    assert len(run("log", "--home", home.path).splitlines()) == len(home.world.kinds())


@each_hostile
def test_a_refusal_quotes_harmlessly(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise StepError("step.died", f"the step said {text}", got=text, expected=text, fix=text)

    monkeypatch.setitem(sys.modules, "loop.run", SimpleNamespace(run_loop=refuse))
    result = CliRunner().invoke(app, ["run", "x.yaml", "--home", str(tmp_path), "--quiet"])
    assert result.exit_code == 1
    assert_harmless(result.stderr)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("refused: [step.died] the step said ")
    assert all(line.startswith("  ") for line in lines[1:]), "no line of theirs begins where ours do"


@each_hostile
def test_the_table_shows_names_as_they_are_and_obeys_none(text: str):
    out = io.StringIO()
    odd = Judged(text, "sha256:" + "a" * 64, "reject", False, (verdict(text, "fail"),), None)
    text_console(out).print(verdict_table([odd]))
    assert_harmless(out.getvalue())
    assert printable(text)[:12] in out.getvalue(), "markup is text, too"


@each_hostile
@pytest.mark.parametrize("is_live", [False, True])
def test_progress_of_a_step_is_shown_harmlessly(text: str, is_live: bool):
    out = io.StringIO()
    with show_steps(stream=out, is_live=is_live) as stage:
        stage(text)(text, 1, 2)
    shown = out.getvalue()
    if is_live:  # the display's own escapes remain; none of theirs does
        assert text not in shown or printable(text) == text
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown)
    assert_harmless(shown)
