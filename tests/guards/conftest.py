"""Homes for the tests of the store and the actions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store_world import UNATTENDED_APPROVALS, World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two people must approve: a reviewer and somebody who keeps safety."""
    world = make_world(tmp_path)
    world.set_root()
    return world


@pytest.fixture
def sandbox(tmp_path: Path) -> World:
    """Nobody has to approve."""
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    world.set_root()
    return world
