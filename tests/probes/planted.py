"""Activations of which the features are known, and small dictionaries, for the tests of dictionaries."""

from __future__ import annotations

from pathlib import Path

import torch

from guards.canonical import sha256_bytes
from probes.activation_store import ActivationStore, ActivationStoreWriter, StoreIdentity
from probes.dictionaries import Dictionary

PARENT = sha256_bytes(b"parent")
CANDIDATE = sha256_bytes(b"candidate")
SOURCE = sha256_bytes(b"documents")
LAYER = 3
DIM = 24


def planted_directions(n_features: int = 32, *, dim: int = DIM, seed: int = 0) -> torch.Tensor:
    """Unit directions ``[feature, dim]``."""
    noise = torch.randn((n_features, dim), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise, dim=1)


def planted_activations(
    n_tokens: int, directions_feat_dim: torch.Tensor, *, share_on: float = 0.06, seed: int = 1
) -> torch.Tensor:
    """Sparse sums of the directions around a mean that is far larger than they are, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    n_features, dim = directions_feat_dim.shape
    on = torch.rand((n_tokens, n_features), generator=generator) < share_on
    size = 1 + torch.rand((n_tokens, n_features), generator=generator)
    mean_dim = torch.zeros(dim)
    mean_dim[0], mean_dim[1] = 30.0, -12.0
    return (on * size) @ directions_feat_dim + mean_dim + 0.02 * torch.randn((n_tokens, dim), generator=generator)


def identity(*, kind: str = "activations", dim: int = DIM, layer: int = LAYER) -> StoreIdentity:
    return StoreIdentity(
        kind=kind,  # type: ignore[arg-type]
        parent_digest=PARENT,
        candidate_digest=CANDIDATE if kind == "differences" else None,
        source_digest=SOURCE,
        layer=layer,
        dim=dim,
        dtype="float16" if kind == "differences" else "bfloat16",
    )


def write_store(directory: Path, acts_tok_dim: torch.Tensor, *, kind: str = "activations") -> ActivationStore:
    with ActivationStoreWriter(directory, identity(kind=kind, dim=acts_tok_dim.shape[1])) as writer:
        for number, part in enumerate(acts_tok_dim.split(1000)):
            writer.append(part, cursor=number + 1)
        writer.finish()
    return ActivationStore.open(directory)


def small_dictionary(
    *, dim: int = DIM, d_sae: int = 40, layer: int = LAYER, seed: int = 5, kind: str = "activations"
) -> Dictionary:
    """Random weights that bfloat16 keeps exactly, so that a file gives back the very same numbers."""
    generator = torch.Generator().manual_seed(seed)
    w_dec = torch.nn.functional.normalize(torch.randn((d_sae, dim), generator=generator), dim=1)
    return Dictionary(
        name="small",
        kind=kind,  # type: ignore[arg-type]
        parent_digest=PARENT,
        layer=layer,
        seed=seed,
        scale=0.5,
        summary={"method": "random", "k": 4.0},
        w_enc_dim_feat=w_dec.T.contiguous(),
        b_enc_feat=0.1 * torch.randn(d_sae, generator=generator),
        w_dec_feat_dim=w_dec,
        b_dec_dim=torch.randn(dim, generator=generator),
        threshold_feat=0.2 * torch.rand(d_sae, generator=generator),
    ).as_stored()
