"""Directions without meaning: what directions with a meaning must beat.

Not covered: random directions in a residual stream are nearly orthogonal to where its activations lie;
principal components are the opposite. A fair control shows both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guards.errors import ProbeError


def random_directions(dim: int, n: int, *, seed: int) -> dict[str, Tensor]:
    """``n`` unit vectors ``[dim]``, float32, named ``random0``, ``random1``, …; the same ones for a seed."""
    noise = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    units = torch.nn.functional.normalize(noise, dim=1).float()
    return {f"random{index}": unit for index, unit in enumerate(units)}


def principal_directions(acts_tok_dim: Tensor, n: int) -> dict[str, Tensor]:
    """The first ``n`` principal components of activations, float32, named ``pca0`` (the largest), ``pca1``, ….

    The sign is such that a component's largest entry is positive.

    Raises:
        ProbeError: ``directions.too-few-tokens``, ``directions.not-finite``.
    """
    acts = acts_tok_dim.detach().cpu().double()
    if acts.ndim != 2 or not 1 <= n <= min(acts.shape[1], acts.shape[0] - 1):
        raise ProbeError(
            "directions.too-few-tokens",
            "not enough activations for so many principal components",
            got=f"activations of shape {list(acts.shape)}, {n} components",
            expected="[tokens, dim], with fewer components than tokens and at most dim",
        )
    if not bool(torch.isfinite(acts).all()):
        raise ProbeError("directions.not-finite", "activations hold NaN or infinity")
    centred = acts - acts.mean(dim=0)
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :n].T
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    signed = (vectors * largest.sign()).float()
    return {f"pca{index}": vector for index, vector in enumerate(signed)}
