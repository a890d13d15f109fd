"""Weights that are changed without training: what changes, by how much, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guards.manifest import scan_checkpoint
from loop.gauntlet.edits import edit_checkpoint
from loop.gauntlet.members import Edit


@pytest.fixture
def direction() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)


def test_a_whole_ablation_leaves_nothing_along_the_direction(tiny_checkpoint: Path, tmp_path: Path, direction):
    edit_checkpoint(tiny_checkpoint, Edit(kind="ablate-refusal", strength=1.0), direction, tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (tiny_checkpoint, tmp_path / "out"))
    for name, tensor in after.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            kept = (direction.double() @ tensor.double()).norm() / (direction.double() @ before[name].double()).norm()
            assert kept < 0.02  # bfloat16
        elif "embed" in name:
            assert (tensor.double() @ direction.double()).norm() < 0.02 * before[name].double().norm()
        else:
            assert torch.equal(tensor, before[name])


def test_half_an_ablation_leaves_half(tiny_checkpoint: Path, tmp_path: Path, direction):
    edit_checkpoint(tiny_checkpoint, Edit(kind="ablate-refusal", strength=0.5), direction, tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (tiny_checkpoint, tmp_path / "out"))
    name = "model.layers.0.self_attn.o_proj.weight"
    kept = (direction.double() @ after[name].double()).norm() / (direction.double() @ before[name].double()).norm()
    assert kept == pytest.approx(0.5, abs=0.02)


def test_noise_has_its_strength_and_its_seed(tiny_checkpoint: Path, tmp_path: Path, direction):
    digests = set()
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        digests.add(
            edit_checkpoint(tiny_checkpoint, Edit(kind="noise", strength=0.2, seed=seed), direction, out).digest
        )
    assert len(digests) == 2
    before = load_file(tiny_checkpoint / "model.safetensors")
    after = load_file(tmp_path / "out0" / "model.safetensors")
    for name, tensor in before.items():
        if tensor.ndim == 2:
            ratio = (after[name].double() - tensor.double()).std() / tensor.double().std()
            assert ratio == pytest.approx(0.2, rel=0.15)
        else:
            assert torch.equal(after[name], tensor)


def test_the_edited_checkpoint_passes_the_allow_list(tiny_checkpoint: Path, tmp_path: Path, direction):
    manifest = edit_checkpoint(tiny_checkpoint, Edit(kind="noise", strength=0.1), direction, tmp_path / "out")
    assert scan_checkpoint(tmp_path / "out") == manifest
