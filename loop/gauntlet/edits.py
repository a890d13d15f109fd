"""Faults made by changing weights, without training.

``noise``: Gaussian noise on every weight matrix; strength in standard deviations of the matrix.
``ablate-refusal``: what writes into the residual stream (o_proj, down_proj, the embedding) loses that
share of its component along the refusal direction (arXiv 2406.11717, section 4; 1 removes it whole).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from guards.manifest import CheckpointManifest, scan_checkpoint
from loop.checkpoint_io import new_checkpoint, write_safetensors
from loop.gauntlet.members import Edit

_WRITES = ("o_proj.weight", "down_proj.weight")
_EMBEDDING = "embed_tokens.weight"


def edit_checkpoint(root: Path, edit: Edit, refusal_dim: torch.Tensor, out_dir: Path) -> CheckpointManifest:
    """Write the edited copy of ``root`` to ``out_dir``, which must not exist.

    ``refusal_dim`` [dim] is the unit refusal direction; noise does not use it.

    Raises:
        ModelError: as :func:`loop.checkpoint_io.new_checkpoint`.
    """
    with new_checkpoint(out_dir) as partial:
        for path in sorted(root.iterdir()):
            if path.suffix == ".safetensors":
                write_safetensors(partial / path.name, _edited(load_file(path), edit, refusal_dim))
            else:
                shutil.copyfile(path, partial / path.name)
        return scan_checkpoint(partial)


def _edited(tensors: dict[str, torch.Tensor], edit: Edit, refusal_dim: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(edit.seed)
    direction = refusal_dim.double() / refusal_dim.double().norm()
    for name, tensor in sorted(tensors.items()):
        if tensor.dim() != 2:
            continue
        exact = tensor.double()
        if edit.kind == "noise":
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            exact = exact + drawn * edit.strength * exact.std()
        elif name.endswith(_WRITES):
            exact = exact - edit.strength * torch.outer(direction, direction @ exact)
        elif name.endswith(_EMBEDDING):
            exact = exact - edit.strength * torch.outer(exact @ direction, direction)
        else:
            continue
        tensors[name] = exact.to(tensor.dtype)
    return tensors
