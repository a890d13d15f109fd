"""Running sums of how each feature of a dictionary fires before and after, over the documents of one slice.

Not covered: significance. Features are ranked so that a reviewer looks at the right ones; nothing is
blocked by a rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """Sums per document, ``[doc, feat]``: how many tokens a feature fired on, and its values over the tokens."""

    n_tokens_doc: Tensor
    reference_fired_doc_feat: Tensor
    candidate_fired_doc_feat: Tensor
    reference_value_doc_feat: Tensor
    candidate_value_doc_feat: Tensor

    def rate_change_doc_feat(self) -> Tensor:
        """Candidate minus reference: share of the document's tokens on which a feature fires."""
        return (self.candidate_fired_doc_feat - self.reference_fired_doc_feat) / self.n_tokens_doc.unsqueeze(1)

    def value_change_doc_feat(self) -> Tensor:
        """Candidate minus reference: mean value over the document's tokens."""
        return (self.candidate_value_doc_feat - self.reference_value_doc_feat) / self.n_tokens_doc.unsqueeze(1)


@dataclass(frozen=True)
class MovedFeature:
    """One feature over a slice: share of tokens it fires on, and mean value per token, before and after.

    ``consistency`` is sum(d) / sqrt(sum(d^2)) over the documents' changes d of the mean value, the statistic
    of a sign-flip test: near 0 for changes that go either way, up to the root of the number of documents.
    """

    feature: int
    rate_before: float
    rate_after: float
    value_before: float
    value_after: float
    consistency: float


class SliceFeatures:
    """One slice's sums, float64 ``[feat]``. Counts are over tokens, changes over documents."""

    def __init__(self, n_features: int) -> None:
        self.n_documents = 0
        self.n_tokens = 0
        self.reference_fired_feat = torch.zeros(n_features, dtype=torch.float64)
        self.candidate_fired_feat = torch.zeros(n_features, dtype=torch.float64)
        self.reference_value_feat = torch.zeros(n_features, dtype=torch.float64)
        self.candidate_value_feat = torch.zeros(n_features, dtype=torch.float64)
        self.rate_change_feat = torch.zeros(n_features, dtype=torch.float64)
        self.rate_change_sq_feat = torch.zeros(n_features, dtype=torch.float64)
        self.value_change_feat = torch.zeros(n_features, dtype=torch.float64)
        self.value_change_sq_feat = torch.zeros(n_features, dtype=torch.float64)

    def add(self, sums: FeatureSums, rows: Tensor) -> None:
        """Add the documents at ``rows`` of ``sums``."""
        self.n_documents += len(rows)
        self.n_tokens += int(sums.n_tokens_doc[rows].sum())
        for field in ("reference_fired", "candidate_fired", "reference_value", "candidate_value"):
            getattr(self, f"{field}_feat").add_(getattr(sums, f"{field}_doc_feat")[rows].double().sum(dim=0))
        for field in ("rate_change", "value_change"):
            change = getattr(sums, f"{field}_doc_feat")()[rows].double()
            getattr(self, f"{field}_feat").add_(change.sum(dim=0))
            getattr(self, f"{field}_sq_feat").add_(change.square().sum(dim=0))

    def consistency_feat(self) -> Tensor:
        """:class:`MovedFeature`'s consistency of every feature; 0 for those that never changed."""
        root = self.value_change_sq_feat.sqrt()
        return torch.where(root > 0, self.value_change_feat / root, 0.0)

    def moved(self, k: int) -> tuple[MovedFeature, ...]:
        """The ``k`` features that moved most consistently, either way, first the most; only those that moved."""
        consistency = self.consistency_feat()
        order = consistency.abs().topk(min(k, len(consistency))).indices
        return tuple(
            MovedFeature(
                feature=feature,
                rate_before=float(self.reference_fired_feat[feature]) / self.n_tokens,
                rate_after=float(self.candidate_fired_feat[feature]) / self.n_tokens,
                value_before=float(self.reference_value_feat[feature]) / self.n_tokens,
                value_after=float(self.candidate_value_feat[feature]) / self.n_tokens,
                consistency=float(consistency[feature]),
            )
            for feature in order[consistency[order] != 0].tolist()
        )
