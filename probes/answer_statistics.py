"""How varied a model's short answers are: the figures of mode collapse, over one set of prompts.

Not covered: whether an answer is any good; answers that differ in form and say the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from guards.errors import ProbeError


def answer_statistics(answers: Sequence[Sequence[int]]) -> dict[str, float]:
    """Figures over the answers (token ids without the prompt, one per prompt) to different prompts.

    ``answers.distinct_share`` is the share of different answers among all; ``answers.mean_length_tokens``
    their mean length; ``answers.first_token_entropy`` the entropy, in nats, of the first token, where an
    empty answer counts as a token of its own; ``answers.distinct_1`` and ``distinct_2`` the share of different
    n-grams among all (distinct-n, Li et al. 2016, arXiv:1510.03055), where an answer that is shorter than n
    is one n-gram.

    Raises:
        ProbeError: ``outputs.no-answers``.
    """
    if not answers:
        raise ProbeError("outputs.no-answers", "there are no answers, so nothing can be said about their variety")
    whole = [tuple(answer) for answer in answers]
    return {
        "answers.distinct_share": _distinct(whole),
        "answers.mean_length_tokens": sum(map(len, whole)) / len(whole),
        "answers.first_token_entropy": _entropy(answer[:1] for answer in whole),
        "answers.distinct_1": _distinct([gram for answer in whole for gram in _ngrams(answer, 1)]),
        "answers.distinct_2": _distinct([gram for answer in whole for gram in _ngrams(answer, 2)]),
    }


def _ngrams(answer: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    return [answer[i : i + n] for i in range(len(answer) - n + 1)] or [answer]


def _distinct(things: Sequence[Hashable]) -> float:
    return len(set(things)) / len(things)


def _entropy(things: Iterable[Hashable]) -> float:
    counts = Counter(things).values()
    total = sum(counts)
    return sum(-n / total * math.log(n / total) for n in counts) + 0.0  # + 0.0: never -0.0
