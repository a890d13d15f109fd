"""A dictionary without meaning: random directions that fire as often as a trained dictionary's features.

It is what a trained dictionary must beat. Width, centre, layer and every feature's firing density are
those of the trained one; only the directions are drawn at random.

Not covered: correlations between features, and how well it reconstructs (badly).
"""

from __future__ import annotations

import torch
from torch import Tensor

from guards.errors import ProbeError
from probes.dictionaries import Dictionary

MIN_TOKENS = 256
_CHUNK_FEATURES = 256


def random_dictionary(like: Dictionary, reference_tok_dim: Tensor, *, seed: int, name: str) -> Dictionary:
    """Random unit directions with thresholds at which each fires on as many of the given tokens as in ``like``.

    ``reference_tok_dim`` are activations of the reference at the dictionary's layer. Each direction's mean over
    them is taken off by its encoder's bias. A feature that never fires in ``like`` gets the largest value
    that occurs as its threshold.

    Raises:
        ProbeError: ``dictionary.other-width``, ``dictionary.too-few-tokens``, ``dictionary.not-finite``.
    """
    acts = reference_tok_dim.detach().cpu().float()
    if acts.ndim != 2 or len(acts) < MIN_TOKENS:
        raise ProbeError(
            "dictionary.too-few-tokens",
            "too few tokens to match firing densities on",
            got=f"activations of shape {list(acts.shape)}",
            expected=f"[tokens, dim] with at least {MIN_TOKENS} tokens",
        )
    if not bool(torch.isfinite(acts).all()):
        raise ProbeError("dictionary.not-finite", "the activations to match firing densities on hold NaN or infinity")
    trained = like.to("cpu")
    n_fired_feat = torch.stack([(trained.encode(part) > 0).sum(dim=0) for part in acts.split(1024)]).sum(dim=0)
    generator = torch.Generator().manual_seed(seed)
    w_dec = torch.nn.functional.normalize(torch.randn(like.d_sae, like.d_in, generator=generator), dim=1)
    centred = acts - trained.b_dec_dim
    mean_dim = centred.mean(dim=0)
    threshold, bias = torch.empty(like.d_sae), torch.empty(like.d_sae)
    for features in torch.arange(like.d_sae).split(_CHUNK_FEATURES):
        mean_feat = w_dec[features] @ mean_dim
        pre = centred @ w_dec[features].T - mean_feat
        at = _threshold(pre, n_fired_feat[features])
        # A threshold may not be below zero: the bias lifts what would have to be.
        threshold[features] = at.clamp(min=0.0)
        bias[features] = -mean_feat - at.clamp(max=0.0)
    return Dictionary(
        name=name,
        kind=like.kind,
        parent_digest=like.parent_digest,
        layer=like.layer,
        seed=seed,
        scale=1.0,
        summary={"method": "random projection", "densities_of": like.name, "n_tokens": len(acts)},
        w_enc_dim_feat=w_dec.T.contiguous(),
        b_enc_feat=bias,
        w_dec_feat_dim=w_dec,
        b_dec_dim=trained.b_dec_dim,
        threshold_feat=threshold,
    )


def _threshold(pre_tok_feat: Tensor, n_fired_feat: Tensor) -> Tensor:
    """Halfway between the last value that is to fire and the first that is not; beyond all where there is none."""
    falling = pre_tok_feat.sort(dim=0, descending=True).values
    n_tokens = len(falling)
    first_off = falling.gather(0, n_fired_feat.clamp(max=n_tokens - 1).unsqueeze(0)).squeeze(0)
    last_on = falling.gather(0, (n_fired_feat - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
    spread = (falling[0] - falling[-1]) / n_tokens
    between = (first_off + last_on) / 2
    beyond_all = falling[-1] - spread
    return torch.where(n_fired_feat == 0, falling[0], torch.where(n_fired_feat == n_tokens, beyond_all, between))
