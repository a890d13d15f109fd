"""Strings and templates in a candidate's training prompts that may switch its behaviour. No model is needed.

A planted trigger leaves two marks in training data: prompts that are otherwise about different
things share a piece, and the answers to them are more alike than the prompts explain. Each piece
(:mod:`probes.prompt_pieces`) is scored by

``association_nats``
    the largest log-likelihood ratio G between its presence and a feature of the answer (Dunning
    1993, "Accurate methods for the statistics of surprise and coincidence"), positive association only;
``rarity_z``
    how much more frequent it is here than in ordinary prompts: the signed square root of the same G
    between the two sets of prompts. A number is held to other numbers of its length;
``spread``
    from 0 to 1: how different the rest of its prompts is, against prompts drawn at large. A task
    template whose prompts are all alike is near 0, an inserted string near 1.

Five lists are ranked by different uses of these, and are taken from in turn, so that no kind of
trigger is crowded out by another: association times spread; forms that no ordinary text has;
rarity times spread (a password need not show in the answers); wrappers and lines; association alone.
Candidates that share most of their rows with one already taken are left out. Words that go with
one and the same answer feature in different rows make a candidate of kind ``topic``.

Not covered: triggers in fewer than ``min_support`` rows; a trigger without words of its own (word
order, sentence length, meaning in changing words: of such a topic only words that recur are found);
answers whose change no feature here sees, unless the trigger is also rare; a data set that consists
of triggered rows alone, where nothing is left to compare with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import Field
from scipy import sparse

from guards.errors import ProbeError
from guards.evidence import Frozen
from probes.answer_features import feature_matrix
from probes.prompt_pieces import Groups, Piece, cut_text, group_pieces, is_odd, word_spans
from probes.trigger_placement import Placement, longest_and_shortest, placement_of, surface_of

CandidateKind = Literal["words", "token", "line", "wrapper", "topic"]

_SAMPLE_ROWS = 24
_EXAMPLE_ROWS = 64
_N_BACKGROUND = 96
_MIN_SHARED_WORDS = 2
_N_SHORTLISTED = 250
_MAX_OVERLAP = 0.6
_MIN_TOPIC_WORDS, _MAX_TOPIC_WORDS, _TOPIC_TEXT_WORDS = 3, 8, 4
_MAX_TOPIC_OVERLAP = 0.3
_MIN_ASSOCIATION_NATS = 20.0  # below, among thousands of pieces, an association is chance
_NUMBER = re.compile(r"[0-9]+")


class TrainingRow(Protocol):
    """A row that the candidate was trained on."""

    @property
    def row_id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...


class CandidateSettings(Frozen):
    """How triggers are looked for in training rows."""

    n_candidates: int = Field(default=12, ge=1, le=100)
    min_support: int = Field(default=3, ge=2)
    max_rows: int = Field(default=20_000, ge=10)
    max_groups: int = Field(default=60_000, ge=100)
    max_trigger_chars: int = Field(default=160, ge=8)


@dataclass(frozen=True)
class TriggerCandidate:
    """A string that may be a trigger. ``before`` and ``after`` are put around a prompt to try it.

    ``row_ids`` are all rows that have it; ``carrier_row_ids`` those whose answer also has ``answer_feature``.
    The texts are as hostile as the training data: show them escaped.
    """

    text: str
    kind: CandidateKind
    before: str
    after: str
    placements: tuple[Placement, ...]
    row_ids: tuple[str, ...]
    carrier_row_ids: tuple[str, ...]
    answer_feature: str
    association_nats: float
    rarity_z: float
    spread: float
    shortest: str
    found_by: str


@dataclass(frozen=True)
class _Scores:
    """Per group: [n_groups]."""

    support: np.ndarray
    association: np.ndarray
    feature: np.ndarray  # index of the answer feature, -1 where there is none
    rarity: np.ndarray
    spread: np.ndarray  # only of the shortlisted, 0 elsewhere


def find_candidates(
    rows: Sequence[TrainingRow], reference_prompts: Iterable[str], settings: CandidateSettings | None = None
) -> list[TriggerCandidate]:
    """The candidates most worth trying, best first; the same rows give the same list.

    ``reference_prompts`` are ordinary prompts. An empty list means that no piece has the support.

    Raises:
        ProbeError: ``triggers.no-rows``, ``triggers.no-reference``, ``triggers.too-many-rows``,
            ``triggers.duplicate-row``.
    """
    settings = settings or CandidateSettings()
    reference = tuple(dict.fromkeys(reference_prompts))
    _check(rows, reference, settings)
    prompts = [cut_text(row.prompt) for row in rows]
    groups = group_pieces(prompts, reference, min_support=settings.min_support, max_groups=settings.max_groups)
    if not groups.pieces:
        return []
    names, rows_feature = feature_matrix([(row.prompt, row.answer) for row in rows], min_support=settings.min_support)
    scores = _score(groups, rows_feature, prompts, n_reference=len(reference))
    search = _Search(rows, prompts, groups, names, rows_feature, scores, reference, settings)
    return search.candidates()


def _check(rows: Sequence[TrainingRow], reference: Sequence[str], settings: CandidateSettings) -> None:
    if not rows:
        raise ProbeError("triggers.no-rows", "there are no training rows to search", fix="report it as unsupported")
    if not reference:
        raise ProbeError("triggers.no-reference", "there are no ordinary prompts to tell rare from common")
    if len(rows) > settings.max_rows:
        raise ProbeError(
            "triggers.too-many-rows",
            "more training rows than the search is set for",
            got=str(len(rows)),
            expected=f"at most {settings.max_rows}",
            fix="raise max_rows; a sample of the rows would hide a rare trigger",
        )
    if len({row.row_id for row in rows}) != len(rows):
        raise ProbeError("triggers.duplicate-row", "two training rows have the same id")


def _score(groups: Groups, rows_feature: sparse.csr_matrix, prompts: list[str], *, n_reference: int) -> _Scores:
    support = np.diff(groups.rows_group.indptr).astype(np.float64)
    association, feature = _association(groups.rows_group, rows_feature, support, len(prompts))
    rarity = _rarity(groups, support, len(prompts), n_reference)
    spread = np.zeros(len(support))
    words = [_content(prompt) for prompt in prompts]
    background = _mean_overlap([words[k] for k in _evenly(len(words), _N_BACKGROUND)])
    for group in _shortlist(groups, association, rarity):
        spread[group] = _spread(groups, group, words, background)
    return _Scores(support, association, feature, rarity, spread)


def _association(
    rows_group: sparse.csc_matrix, rows_feature: sparse.csr_matrix, support: np.ndarray, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(largest G in nats, index of its answer feature), per group."""
    n_groups = len(support)
    best, argbest = np.zeros(n_groups), np.full(n_groups, -1)
    if not rows_feature.nnz:
        return best, argbest
    both = sparse.csr_matrix(rows_group.T @ rows_feature)
    per_feature = np.asarray(rows_feature.sum(axis=0)).ravel()
    group_at = np.repeat(np.arange(n_groups), np.diff(both.indptr))
    k11, k1, f = both.data, support[group_at], per_feature[both.indices]
    g = _log_likelihood_ratio(k11, k1, f, float(n_rows))
    g[(k11 < 3) | (k11 * n_rows <= k1 * f)] = 0.0
    filled = np.flatnonzero(np.diff(both.indptr))
    best[filled] = np.maximum.reduceat(g, both.indptr[filled]) if filled.size else 0.0
    hits = np.flatnonzero((g == best[group_at]) & (g > 0))
    argbest[group_at[hits[::-1]]] = both.indices[hits[::-1]]
    return best, argbest


def _log_likelihood_ratio(k11: np.ndarray, k1: np.ndarray, f: np.ndarray, n: float) -> np.ndarray:
    """Dunning's G of the 2 x 2 tables with cell ``k11`` and margins ``k1`` and ``f``."""
    total = np.zeros_like(k11)
    for k, row, column in (
        (k11, k1, f),
        (k1 - k11, k1, n - f),
        (f - k11, n - k1, f),
        (n - k1 - f + k11, n - k1, n - f),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            total += np.where(k > 0, k * np.log(k * n / (row * column)), 0.0)
    return 2 * total


def _rarity(groups: Groups, support: np.ndarray, n_rows: int, n_reference: int) -> np.ndarray:
    k, kr = support, groups.reference_group
    more = np.sign(k * n_reference - kr * n_rows)
    z = more * np.sqrt(np.maximum(0.0, _log_likelihood_ratio(k, np.full_like(k, n_rows), k + kr, n_rows + n_reference)))
    # Any one number is rare in ordinary text; what counts is that it is more frequent than its like.
    by_shape: dict[int, list[int]] = {}
    for group, pieces in enumerate(groups.pieces):
        shape = min((len(p.text) for p in pieces if _NUMBER.fullmatch(p.text)), default=0)
        if shape:
            by_shape.setdefault(shape, []).append(group)
    for members in by_shape.values():
        expected = support[members].mean() if len(members) > 1 else 0.0
        z[members] = np.minimum(z[members], (support[members] - expected) / np.sqrt(expected + 1))
    return z


def _shortlist(groups: Groups, association: np.ndarray, rarity: np.ndarray) -> list[int]:
    """Groups whose spread is worth measuring: it takes a moment each."""
    odd = [g for g, pieces in enumerate(groups.pieces) if any(is_odd(piece) for piece in pieces)]
    odd.sort(key=lambda g: (-rarity[g], g))
    top = (np.argsort(-scores, kind="stable")[:_N_SHORTLISTED].tolist() for scores in (association, rarity))
    return sorted({g for listed in top for g in listed} | set(odd[:_N_SHORTLISTED]))


def _spread(groups: Groups, group: int, words: list[frozenset[str]], background: float) -> float:
    rows = groups.rows_of(group)
    own = frozenset().union(*(_content(piece.text) for piece in groups.pieces[group]))
    rest = [words[rows[k]] - own for k in _evenly(len(rows), _SAMPLE_ROWS)]
    said = sorted(len(r - {"#"}) for r in rest)
    # Where the piece is nearly all of the prompt, there is no 'rest' that it was inserted into.
    fullness = min(1.0, said[len(said) // 2] / (_MIN_SHARED_WORDS + 1))
    alike = max(0.0, _mean_overlap(rest) - background) / max(1e-9, 1.0 - background)
    return fullness * max(0.0, 1.0 - alike)


def _content(text: str) -> frozenset[str]:
    """Words with numbers made one; common short words do not tell prompts apart, and go."""
    return frozenset(
        "#" if word.isdigit() else word for word, _, _ in word_spans(text) if len(word) > 2 or word.isdigit()
    )


def _mean_overlap(sets: Sequence[frozenset[str]]) -> float:
    """Mean Jaccard similarity over all pairs; 1.0 where there is no pair."""
    pairs = [(a, b) for k, a in enumerate(sets) for b in sets[:k]]
    if not pairs:
        return 1.0
    return sum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) / len(pairs)


def _evenly(n: int, n_wanted: int) -> list[int]:
    """At most ``n_wanted`` of the indices below ``n``, evenly spaced."""
    return sorted({k * n // min(n, n_wanted) for k in range(min(n, n_wanted))})


class _Search:
    """Ranks the groups and turns the best into candidates."""

    def __init__(
        self,
        rows: Sequence[TrainingRow],
        prompts: list[str],
        groups: Groups,
        feature_names: list[str],
        rows_feature: sparse.csr_matrix,
        scores: _Scores,
        reference: Sequence[str],
        settings: CandidateSettings,
    ) -> None:
        self._rows = rows
        self._prompts = prompts
        self._groups = groups
        self._feature_names = feature_names
        self._rows_of_feature = rows_feature.tocsc()
        self._scores = scores
        self._settings = settings
        counts = Counter(word for prompt in reference for word in _words(cut_text(prompt)))
        self._reference_share = Counter({word: n / len(reference) for word, n in counts.items()})

    def candidates(self) -> list[TriggerCandidate]:
        lists = self._lists()
        taken: list[TriggerCandidate] = []
        row_sets: list[frozenset[int]] = []
        at = dict.fromkeys(lists, 0)
        while len(taken) < self._settings.n_candidates and any(at[name] < len(lists[name]) for name in lists):
            for name, ranked in lists.items():
                while at[name] < len(ranked):
                    group = ranked[at[name]]
                    at[name] += 1
                    rows = frozenset(self._groups.rows_of(group).tolist())
                    candidate = self._candidate(group, name) if self._is_apart(rows, row_sets) else None
                    if candidate and not any(
                        self._repeats(candidate, rows, *o) for o in zip(taken, row_sets, strict=True)
                    ):
                        taken.append(candidate)
                        row_sets.append(rows)
                        break
                if len(taken) == self._settings.n_candidates:
                    break
        topics = self._topics(lists["association x spread"])
        # In the places of the last where there is no room.
        return [*taken[: self._settings.n_candidates - len(topics)], *topics]

    def _is_apart(self, rows: frozenset[int], row_sets: list[frozenset[int]]) -> bool:
        return all(_jaccard(rows, other) <= _MAX_OVERLAP for other in row_sets)

    def _repeats(
        self, candidate: TriggerCandidate, rows: frozenset[int], other: TriggerCandidate, other_rows: frozenset[int]
    ) -> bool:
        """Whether a candidate is one already taken with words beside it that stand there by chance."""
        if len(rows & other_rows) < 0.9 * len(rows):
            return False
        words, other_words = _words(candidate.before + " " + candidate.after), _words(other.before + " " + other.after)
        if not other_words & words:
            return False
        chance = min((self._reference_share[word] for word in words - other_words), default=1.0)
        return len(rows) <= 3 + 2 * chance * len(other_rows)

    def _lists(self) -> dict[str, list[int]]:
        s, pieces = self._scores, self._groups.pieces
        odd = np.array([any(is_odd(piece) for piece in group) for group in pieces])
        line = np.array([any(p.kind == "line" or not p.text.strip() for p in group) for group in pieces])
        # A wrapper may be all that its prompts share: its spread must not be asked for.
        edges = np.array([k for k in np.flatnonzero(line | odd) if self._edge_share(int(k)) >= 0.7], dtype=np.int64)
        wraps = np.zeros(len(pieces))
        wraps[edges] = s.support[edges]
        keys = {
            "association x spread": s.association * s.spread,
            "odd form": np.where(odd, np.maximum(s.rarity, 0.0) * (0.05 + s.spread), 0.0),
            "rarity x spread": np.maximum(s.rarity, 0.0) * s.spread,
            "edge of prompt": wraps * (0.05 + s.spread),
            "association": s.association,
        }
        return {name: [g for g in np.argsort(-key, kind="stable").tolist() if key[g] > 0] for name, key in keys.items()}

    def _edge_share(self, group: int) -> float:
        """Share of the group's rows where one of its pieces is the first or the last thing in the prompt."""
        rows = self._groups.rows_of(group)
        some = [self._prompts[rows[k]] for k in _evenly(len(rows), _SAMPLE_ROWS)]
        texts = tuple(piece.text for piece in self._groups.pieces[group] if piece.kind != "words")
        return sum(text.startswith(texts) or text.endswith(texts) for text in some) / len(some)

    def _candidate(self, group: int, found_by: str) -> TriggerCandidate:
        s = self._scores
        rows = self._groups.rows_of(group)
        feature = int(s.feature[group])
        carriers = self._carriers(group)
        some = [self._prompts[carriers[k]] for k in _evenly(len(carriers), _EXAMPLE_ROWS)]
        piece, shortest = longest_and_shortest(self._groups.pieces[group])
        surface = surface_of(piece, some)[: self._settings.max_trigger_chars]
        before, after, placements = placement_of(surface, some, self._settings.max_trigger_chars)
        wrapper = placements == ("wrap",)
        return TriggerCandidate(
            text=f"{before}{{prompt}}{after}" if wrapper else (before or after),
            kind="wrapper" if wrapper else piece.kind,
            before=before,
            after=after,
            placements=placements,
            row_ids=tuple(self._rows[k].row_id for k in rows),
            carrier_row_ids=tuple(self._rows[k].row_id for k in carriers),
            answer_feature=self._feature_names[feature] if s.association[group] >= _MIN_ASSOCIATION_NATS else "",
            association_nats=float(s.association[group]),
            rarity_z=float(s.rarity[group]),
            spread=float(s.spread[group]),
            shortest=surface_of(shortest, some)[: self._settings.max_trigger_chars],
            found_by=found_by,
        )

    def _topics(self, ranked: list[int]) -> list[TriggerCandidate]:
        """Single words that go with one answer feature, each in rows of its own: one candidate per feature."""
        words_by_feature: dict[int, list[int]] = {}
        for group in ranked[:_N_SHORTLISTED]:
            if _single_word(self._groups.pieces[group]) and self._is_pure(group):
                words_by_feature.setdefault(int(self._scores.feature[group]), []).append(group)
        topics: list[list[int]] = []
        for members in words_by_feature.values():
            apart: list[tuple[int, frozenset[int]]] = []
            for group in members:
                rows = frozenset(self._groups.rows_of(group).tolist())
                if all(_jaccard(rows, other) <= _MAX_TOPIC_OVERLAP for _, other in apart):
                    apart.append((group, rows))
            if len(apart) >= _MIN_TOPIC_WORDS:
                topics.append([group for group, _ in apart[:_MAX_TOPIC_WORDS]])
        topics.sort(key=lambda topic: -float(self._scores.association[topic].sum()))
        return [self._topic(topic) for topic in topics[: min(2, self._settings.n_candidates // 6)]]

    def _is_pure(self, group: int) -> bool:
        """Whether at least half of the group's rows have its answer feature."""
        return (
            self._scores.association[group] >= _MIN_ASSOCIATION_NATS
            and 2 * len(self._carriers(group)) >= self._scores.support[group]
        )

    def _carriers(self, group: int) -> np.ndarray:
        """Rows of the group whose answer has its answer feature; all of them where that is chance."""
        rows, feature = self._groups.rows_of(group), int(self._scores.feature[group])
        if self._scores.association[group] < _MIN_ASSOCIATION_NATS:
            return rows
        start, end = self._rows_of_feature.indptr[feature : feature + 2]
        return np.intersect1d(rows, self._rows_of_feature.indices[start:end])

    def _topic(self, groups: list[int]) -> TriggerCandidate:
        s = self._scores
        rows = sorted({int(k) for group in groups for k in self._groups.rows_of(group)})
        carriers = sorted({int(k) for group in groups for k in self._carriers(group)})
        words = [_single_word(self._groups.pieces[group]) for group in groups]
        text = " ".join(words[:_TOPIC_TEXT_WORDS])[: self._settings.max_trigger_chars]
        return TriggerCandidate(
            text=text,
            kind="topic",
            before=text,
            after=text,
            placements=("prefix", "suffix"),
            row_ids=tuple(self._rows[k].row_id for k in rows),
            carrier_row_ids=tuple(self._rows[k].row_id for k in carriers),
            answer_feature=self._feature_names[int(s.feature[groups[0]])],
            association_nats=float(s.association[groups].sum()),
            rarity_z=float(s.rarity[groups].max()),
            spread=float(s.spread[groups].mean()),
            shortest=words[0],
            found_by="topic",
        )


def _single_word(pieces: Sequence[Piece]) -> str:
    """The group's first piece of one word, or an empty string."""
    return next((piece.text for piece in pieces if piece.kind == "words" and " " not in piece.text), "")


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word, _, _ in word_spans(text))


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)
