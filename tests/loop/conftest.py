"""Homes with a candidate that was judged, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.judged_home import JudgedHome, judged_home


@pytest.fixture
def judged(tmp_path: Path) -> JudgedHome:
    """A candidate that was rejected."""
    return judged_home(tmp_path)


@pytest.fixture
def held(tmp_path: Path) -> JudgedHome:
    """A candidate that waits for two approvals."""
    return judged_home(tmp_path, outcome="pass")
