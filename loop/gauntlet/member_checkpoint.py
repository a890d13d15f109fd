"""The checkpoint of a member, written out from its adapter or its edit."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch

from guards.manifest import CheckpointManifest
from loop.gauntlet.build import STEP_DIR, member_dir
from loop.gauntlet.edits import edit_checkpoint
from loop.gauntlet.members import Member
from loop.merge import merge_adapter
from loop.train_record import ADAPTER_DIR


def write_member(
    member: Member, root: Path, home: Path, out_dir: Path, refusal_dim: torch.Tensor | None = None
) -> CheckpointManifest:
    """Write the member's whole checkpoint to ``out_dir``, which must not exist.

    Raises:
        ModelError: as :func:`loop.merge.merge_adapter`, whose adapter must have been trained already.
    """
    if member.edit is not None:
        assert refusal_dim is not None or member.edit.kind == "noise"
        return edit_checkpoint(root, member.edit, refusal_dim if refusal_dim is not None else torch.ones(1), out_dir)
    adapter = member_dir(home, member) / STEP_DIR / ADAPTER_DIR
    if member.scale == 1.0:
        return merge_adapter(root, adapter, out_dir)
    with tempfile.TemporaryDirectory(dir=home) as scaled:
        copy = Path(scaled) / "adapter"
        shutil.copytree(adapter, copy)
        config_path = copy / "adapter_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config["lora_alpha"] = config["lora_alpha"] * member.scale
        config_path.write_text(json.dumps(config), encoding="utf-8")
        return merge_adapter(root, copy, out_dir)
