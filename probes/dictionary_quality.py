"""How good a dictionary is on activations, and which of its features another seed finds again.

The caller passes counted activations: first tokens and tokens of extreme norm left out, because a few of
them carry most of the variance and would decide the fraction unexplained alone.

Not covered: whether a feature means what its examples suggest; what a dictionary is worth for detection (the
gauntlet shows that). Loss recovered is in probes.dictionary_splice. These figures do not carry over to another
layer or model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pydantic import Field

from guards.errors import ProbeError
from guards.evidence import Frozen
from probes.dictionaries import Dictionary


class DictionaryQuality(Frozen):
    """``fvu`` is squared error over variance around the mean of the same tokens (0 is perfect, above 1 is worse than
    the mean); ``l0`` features on per token; ``share_dead`` never fired on these ``n_tokens``."""

    n_tokens: int = Field(ge=2)
    fvu: float = Field(ge=0, allow_inf_nan=False)
    l0: float = Field(ge=0, allow_inf_nan=False)
    n_dead: int = Field(ge=0)
    n_features: int = Field(ge=1)

    @property
    def share_dead(self) -> float:
        return self.n_dead / self.n_features


@dataclass(frozen=True, eq=False)
class MeasuredDictionary:
    """Quality, and per feature the share of tokens on which it fired (float64, [feat])."""

    quality: DictionaryQuality
    density_feat: torch.Tensor

    @property
    def alive_feat(self) -> torch.Tensor:
        return self.density_feat > 0


@torch.no_grad()
def measure_quality(dictionary: Dictionary, batches_tok_dim: Iterable[torch.Tensor]) -> MeasuredDictionary:
    """Quality over all tokens of ``batches_tok_dim``, each ``[token, dim]``; nothing but sums is kept.

    Raises:
        ProbeError: ``dictionary.nothing-measured`` (fewer than two tokens, or tokens that are all the same),
            ``dictionary.not-finite`` (NaN in the activations), ``dictionary.other-width``.
    """
    device = dictionary.b_dec_dim.device
    sum_dim = torch.zeros(dictionary.d_in, dtype=torch.float64, device=device)
    fired_feat = torch.zeros(dictionary.d_sae, dtype=torch.float64, device=device)
    sum_squares = sum_errors = 0.0
    n_tokens = 0
    for acts_tok_dim in batches_tok_dim:
        features = dictionary.encode(acts_tok_dim)
        # Around b_dec, which is close to the mean: the two terms of the variance would cancel otherwise.
        centred = (acts_tok_dim.float() - dictionary.b_dec_dim).double()
        errors = (acts_tok_dim.float() - dictionary.decode(features)).double()
        sum_dim += centred.sum(dim=0)
        sum_squares += float(centred.square().sum())
        sum_errors += float(errors.square().sum())
        fired_feat += (features > 0).sum(dim=0)
        n_tokens += acts_tok_dim.shape[0]
    if n_tokens < 2:
        raise ProbeError("dictionary.nothing-measured", "too few tokens to measure a dictionary", got=str(n_tokens))
    variance = sum_squares - float(sum_dim.square().sum()) / n_tokens
    if not (torch.isfinite(torch.tensor([variance, sum_errors])).all()):
        raise ProbeError("dictionary.not-finite", "activations or reconstructions hold NaN or infinity")
    if variance <= 1e-12 * sum_squares:
        raise ProbeError("dictionary.nothing-measured", "every token is the same: there is no variance to explain")
    density_feat = (fired_feat / n_tokens).cpu()
    quality = DictionaryQuality(
        n_tokens=n_tokens,
        fvu=sum_errors / variance,
        l0=float(density_feat.sum()),
        n_dead=int((density_feat == 0).sum()),
        n_features=dictionary.d_sae,
    )
    return MeasuredDictionary(quality=quality, density_feat=density_feat)


@dataclass(frozen=True, eq=False)
class NearestFeatures:
    """For each feature of one dictionary the nearest of another: its index, and the decoder rows' cosine."""

    index_feat: torch.Tensor
    cosine_feat: torch.Tensor

    def share_above(self, least_cosine: float, *, among_feat: torch.Tensor) -> float:
        """Share of the features in the mask ``among_feat`` whose nearest has a cosine above ``least_cosine``.

        Raises:
            ProbeError: ``dictionary.nothing-measured`` (the mask is empty).
        """
        if not bool(among_feat.any()):
            raise ProbeError("dictionary.nothing-measured", "no feature to match: all are dead")
        return float((self.cosine_feat[among_feat] > least_cosine).double().mean())


@torch.no_grad()
def nearest_features(
    dictionary: Dictionary, other: Dictionary, *, other_alive_feat: torch.Tensor | None = None
) -> NearestFeatures:
    """The nearest feature in ``other`` of every feature of ``dictionary``, by cosine of decoder rows (signed).

    With ``other_alive_feat`` only those features of ``other`` are candidates: a dead feature's direction is what
    it was born with. Several features may share a nearest one; about 30% of features are found again by another
    seed at large sizes (Paulo and Belrose 2025, arXiv:2501.16615).

    Raises:
        ProbeError: ``dictionary.not-comparable`` (another parent, layer, width or kind),
            ``dictionary.nothing-measured`` (no candidate is alive).
    """
    ours = (dictionary.parent_digest, dictionary.layer, dictionary.d_in, dictionary.kind)
    theirs = (other.parent_digest, other.layer, other.d_in, other.kind)
    if ours != theirs:
        raise ProbeError(
            "dictionary.not-comparable",
            f"{dictionary.name!r} and {other.name!r} are not dictionaries of the same activations",
            got=str(theirs),
            expected=str(ours),
        )
    candidates = torch.arange(other.d_sae) if other_alive_feat is None else other_alive_feat.nonzero().flatten()
    if len(candidates) == 0:
        raise ProbeError("dictionary.nothing-measured", f"no feature of {other.name!r} is alive")
    rows = torch.nn.functional.normalize(dictionary.w_dec_feat_dim.float(), dim=1)
    other_rows = torch.nn.functional.normalize(other.w_dec_feat_dim.float()[candidates], dim=1)
    best = (rows @ other_rows.T).max(dim=1)
    return NearestFeatures(index_feat=candidates[best.indices], cosine_feat=best.values)


def share_found_again(dictionary: MeasuredDictionary, nearest: NearestFeatures, *, least_cosine: float = 0.7) -> float:
    """Share of a dictionary's live features that another seed finds again; see :func:`nearest_features`."""
    return nearest.share_above(least_cosine, among_feat=dictionary.alive_feat)
