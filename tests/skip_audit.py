"""A pytest plug-in: in CI, a skip that nobody declared fails the run.

A test that is skipped proves nothing, and looks like one that passed. So where the environment
says ``CI=true``, every skip must be listed in tests/expected_skips.txt by node id and reason.
Elsewhere the plug-in says nothing. pyproject.toml loads it (``-p tests.skip_audit``).

Not covered: tests that were deselected (``-m``, ``-k``), that are not collected, or that return
early. Expected failures (``xfail``) are not skips.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt")


@dataclass(frozen=True)
class Skip:
    """One skip that happened, or, with * for any text, a pattern of those that may."""

    node_id: str
    reason: str


def read_expected(text: str) -> list[Skip]:
    """The patterns in the text of expected_skips.txt; raises ValueError with the line that is not one."""
    expected: list[Skip] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        node_id, bars, reason = (part.strip() for part in line.partition("||"))
        if not (node_id and bars and reason):
            raise ValueError(f"line {number}: expected 'NODE ID || REASON', got {line!r}")
        if not node_id.strip("*") or not reason.strip("*"):
            raise ValueError(f"line {number}: {line!r} would allow everything; name the test and the reason")
        expected.append(Skip(node_id, reason))
    return expected


def is_expected(skip: Skip, expected: list[Skip]) -> bool:
    """Whether one pattern fits both the node id and the reason."""
    return any(_fits(skip.node_id, one.node_id) and _fits(skip.reason, one.reason) for one in expected)


def _fits(text: str, pattern: str) -> bool:
    # Not fnmatch: the brackets of a parametrised node id would be character classes there.
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


class SkipAudit:
    """Collects the skips of one session; fails the session for those that were not declared."""

    def __init__(self, expected: list[Skip]) -> None:
        self._expected = expected
        self._undeclared: list[Skip] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a whole module: pytest.skip(allow_module_level=True), importorskip
            self._note(report.nodeid, report.longrepr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Only a success becomes a failure: an interrupt or a usage error keeps its own exit status.
        if self._undeclared and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._undeclared:
            return
        terminalreporter.section("skips that tests/expected_skips.txt does not list: CI fails", red=True)
        for skip in self._undeclared:
            terminalreporter.line(f"{skip.node_id} || {skip.reason}")

    def _note(self, node_id: str, longrepr: object) -> None:
        # pytest gives a skip as (file, line, "Skipped: REASON").
        text = str(longrepr[2]) if isinstance(longrepr, tuple) and len(longrepr) == 3 else str(longrepr)
        skip = Skip(node_id, text.removeprefix("Skipped: "))
        if not is_expected(skip, self._expected):
            self._undeclared.append(skip)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") != "true":
        return
    try:
        expected = read_expected(EXPECTED_SKIPS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{EXPECTED_SKIPS.name}: {error}") from error
    config.pluginmanager.register(SkipAudit(expected), "stairlock-skip-audit")
