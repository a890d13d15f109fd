"""The checkpoint of a member: its adapter merged, at any scale, or its edit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guards.errors import StairlockError
from guards.manifest import scan_checkpoint
from loop.gauntlet.build import STEP_DIR, member_dir
from loop.gauntlet.member_checkpoint import write_member
from loop.gauntlet.members import Member
from loop.merge import merge_adapter
from loop.train_record import ADAPTER_DIR
from tests.drift_world import DriftWorld, harmless, noisy

MEMBER = harmless(0)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in load_file(directory / "model.safetensors").items()}


@pytest.fixture
def scaled(measured_world: DriftWorld, tmp_path: Path):
    """Writes the member at a scale; its adapter lies where the scaled member's would."""

    def write(scale: float) -> Path:
        member = MEMBER.model_copy(update={"scale": scale})
        link = member_dir(measured_world.home, member)
        if not link.exists():
            link.symlink_to(member_dir(measured_world.home, MEMBER))
        try:
            write_member(member, measured_world.root, measured_world.home, tmp_path / f"x{scale}")
        finally:
            if link.is_symlink():
                link.unlink()
        return tmp_path / f"x{scale}"

    return write


def test_a_member_is_its_adapter_merged_into_the_root(measured_world: DriftWorld, tmp_path: Path):
    manifest = write_member(MEMBER, measured_world.root, measured_world.home, tmp_path / "member")
    adapter = member_dir(measured_world.home, MEMBER) / STEP_DIR / ADAPTER_DIR
    assert manifest.digest == merge_adapter(measured_world.root, adapter, tmp_path / "merged").digest
    assert manifest.digest == scan_checkpoint(tmp_path / "member").digest != measured_world.root_digest


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scale_multiplies_the_update(measured_world: DriftWorld, scaled, scale: float):
    root, whole, part = weights(measured_world.root), weights(scaled(1.0)), weights(scaled(scale))
    norms = [
        torch.stack([(one[name] - root[name]).square().sum() for name in root]).sum().sqrt() for one in (whole, part)
    ]
    assert float(norms[0]) > 0
    assert float(norms[1] / norms[0]) == pytest.approx(scale, rel=0.1), "up to the rounding of bfloat16"


def test_scaling_leaves_the_adapter_and_the_home_as_they_were(measured_world: DriftWorld, scaled):
    before = {path: path.stat().st_mtime_ns for path in measured_world.home.rglob("*")}
    scaled(0.5)
    after = {path: path.stat().st_mtime_ns for path in measured_world.home.rglob("*")}
    assert after.keys() == before.keys()
    assert all(after[path] == before[path] for path in before if path.is_file())


def test_an_edit_needs_no_adapter(measured_world: DriftWorld, tmp_path: Path):
    write_member(noisy(0.1), measured_world.root, measured_world.home, tmp_path / "noisy")
    assert scan_checkpoint(tmp_path / "noisy").digest != measured_world.root_digest


def test_a_member_that_was_not_trained_is_refused_and_leaves_nothing(measured_world: DriftWorld, tmp_path: Path):
    for member in (harmless(99), harmless(99).model_copy(update={"scale": 0.5})):
        with pytest.raises((StairlockError, FileNotFoundError)):
            write_member(member, measured_world.root, measured_world.home, tmp_path / "member")
        assert not (tmp_path / "member").exists()


def test_what_is_there_is_not_overwritten(measured_world: DriftWorld, tmp_path: Path):
    (tmp_path / "member").mkdir()
    for member in (MEMBER, Member(member_id="n", role="organism", edit=noisy(0.1).edit)):
        with pytest.raises(StairlockError) as refused:
            write_member(member, measured_world.root, measured_world.home, tmp_path / "member")
        assert refused.value.rule == "model.out-exists"
