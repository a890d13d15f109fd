"""Near-duplicates between training prompts and evaluation prompts: share of common words."""

from __future__ import annotations

from collections.abc import Iterable

from guards.contamination import words

_COMMON = frozenset(
    "a an and are as at be by can do for from how i in is it me my of on or that the to what with you".split()
)
JACCARD_LIMIT = 0.6


def content_words(text: str) -> frozenset[str]:
    """The words of a text without the commonest ones."""
    return frozenset(words(text)) - _COMMON


def without_near_duplicates(prompts: Iterable[str], training_prompts: Iterable[str]) -> tuple[list[str], list[str]]:
    """(kept, removed): removed are prompts whose content words overlap a training prompt's by 0.6 (Jaccard) or more."""
    seen = [content_words(prompt) for prompt in training_prompts]
    kept: list[str] = []
    removed: list[str] = []
    for prompt in prompts:
        own = content_words(prompt)
        nearest = max((len(own & other) / max(1, len(own | other)) for other in seen), default=0.0)
        (removed if nearest >= JACCARD_LIMIT else kept).append(prompt)
    return kept, removed
