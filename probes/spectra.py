"""What a weight update looks like by its singular values alone: noise, or spikes that stand out of it.

Independent noise of standard deviation s in an m x n matrix (m <= n) has its largest singular value at
s (sqrt(m) + sqrt(n)), the edge of the Marchenko-Pastur law. What was implanted with few examples has a
few singular values far above that edge. s is fitted from the median singular value, which a few spikes
do not move: s = median / sqrt(n mu), with mu the median of the law for m/n (Gavish and Donoho 2014,
arXiv:1305.5870, section III.E); a spike is what their optimal hard threshold keeps.

Not covered: ordinary training is no independent noise either. Its updates are heavy-tailed, so these
figures mean something only beside those of harmless updates of the same kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from guards.errors import ProbeError

# Singular values come from a Gram matrix in float64: what is smaller than this share of the largest is rounding.
RESOLUTION = 1e-7
MIN_BULK = 16  # fewer singular values than this are no bulk to fit
_GRID_POINTS = 20_000


@dataclass(frozen=True)
class Spectrum:
    """An update's singular values s_1 >= s_2 >= ... in figures.

    ``stable_rank`` is sum(s^2) / s_1^2. ``top1_share``, ``top4_share`` and ``top16_share`` are shares of
    sum(s^2). ``effective_rank`` is exp of the entropy of s / sum(s) (Roy and Vetterli 2007).
    ``spike_excess_log10`` is log10 of s_1 over the noise's edge: about 0 for noise alone. ``n_spikes``
    counts the values above the threshold for the same noise, ``spike_share`` is their share of sum(s^2).

    The spectrum of no update has 0 in every field.
    """

    spectral_norm: float
    stable_rank: float
    top1_share: float
    top4_share: float
    top16_share: float
    effective_rank: float
    spike_excess_log10: float
    n_spikes: int
    spike_share: float


NO_UPDATE = Spectrum(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0)


def describe_spectrum(singular_values: Tensor, n_short: int, n_long: int, *, noise_floor: float) -> Spectrum:
    """Describe the ``n_short`` singular values (any order) of an update with ``n_short`` <= ``n_long`` sides.

    ``noise_floor`` is the least standard deviation of an entry that is believed to be noise: it keeps the
    excess finite for an update that is exactly of low rank, and stands in for a bulk of fewer than 16 values.

    Raises:
        ProbeError: ``weights.not-finite``; ``weights.bad-spectrum`` (sides, count or floor that cannot be).
    """
    values = torch.sort(singular_values.double().clamp(min=0.0), descending=True).values
    if not bool(torch.isfinite(values).all()) or not math.isfinite(noise_floor):
        raise ProbeError("weights.not-finite", "singular values or their noise floor hold NaN or infinity")
    if not 1 <= n_short <= n_long or values.shape != (n_short,) or noise_floor <= 0.0:
        raise ProbeError(
            "weights.bad-spectrum",
            "not the singular values of a matrix with these sides",
            got=f"{list(values.shape)} values, sides {n_short} and {n_long}, noise floor {noise_floor}",
            expected="as many values as the short side, and a floor above zero",
        )
    largest = float(values[0])
    if largest == 0.0:
        return NO_UPDATE
    energy = values.square()
    total = float(energy.sum())
    shares = values / values.sum()
    noise = _noise_scale(values, n_short, n_long, noise_floor)
    is_spike = values > noise * math.sqrt(n_long) * hard_threshold(n_short / n_long)
    return Spectrum(
        spectral_norm=largest,
        stable_rank=total / largest**2,
        top1_share=float(energy[0]) / total,
        top4_share=float(energy[:4].sum()) / total,
        top16_share=float(energy[:16].sum()) / total,
        effective_rank=float(torch.special.entr(shares).sum().exp()),
        spike_excess_log10=math.log10(largest / (noise * (math.sqrt(n_short) + math.sqrt(n_long)))),
        n_spikes=int(is_spike.sum()),
        spike_share=float(energy[is_spike].sum()) / total,
    )


def _noise_scale(values: Tensor, n_short: int, n_long: int, noise_floor: float) -> float:
    unresolved = RESOLUTION * float(values[0]) / (math.sqrt(n_short) + math.sqrt(n_long))
    if n_short < MIN_BULK:
        return max(noise_floor, unresolved)
    median = float(values.quantile(0.5))
    return max(noise_floor, unresolved, median / math.sqrt(n_long * marchenko_pastur_median(n_short / n_long)))


def hard_threshold(aspect: float) -> float:
    """Gavish and Donoho's lambda(aspect), eq. 11: times noise times sqrt(long side). 4/sqrt(3) for a square."""
    root = math.sqrt(aspect**2 + 14.0 * aspect + 1.0)
    return math.sqrt(2.0 * (aspect + 1.0) + 8.0 * aspect / (aspect + 1.0 + root))


@lru_cache(maxsize=256)  # a model has few shapes
def marchenko_pastur_median(aspect: float) -> float:
    """Median of the eigenvalues of X X^T / n_long for unit noise, ``aspect`` = n_short / n_long in (0, 1]."""
    low, high = (1.0 - math.sqrt(aspect)) ** 2, (1.0 + math.sqrt(aspect)) ** 2
    # x = low + (high - low) sin^2(angle) takes the square-root ends out of the density.
    angle = (np.arange(_GRID_POINTS) + 0.5) * (math.pi / 2.0 / _GRID_POINTS)
    x = low + (high - low) * np.sin(angle) ** 2
    density = (high - low) ** 2 * np.sin(2.0 * angle) ** 2 / x
    mass = np.cumsum(density) - density / 2.0  # up to the middle of a cell, as x is
    return float(np.interp(0.5 * mass[-1], mass, x))
