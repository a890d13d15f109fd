"""Pieces of prompts that could be a trigger, and which rows have which piece.

A piece is a run of one to four words, a token as it is written (``|cf-7Q|``), a run of symbols,
spaces or invisible characters, or a whole line. Pieces that occur in exactly the same training rows
cannot be told apart by the data, and are one *group*.

Texts come from a data set that nobody vouches for: they are cut, every pattern here takes time
linear in the text, and half characters are replaced.

Not covered: a trigger that is the order of words, their number, or a meaning without words of its
own; the middle of prompts longer than ``MAX_WORDS`` words; a piece in fewer than ``min_support`` rows.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

MAX_CHARS = 4000
MAX_WORDS = 96
MAX_GRAM = 4
_MAX_TOKEN_CHARS = 64
_MAX_LINE_CHARS = 160
_MAX_RAW_PER_TEXT = 256

PieceKind = Literal["words", "token", "line"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_SYMBOLS = re.compile(r"[^\w\s]{2,}")
_REPEATED = re.compile(r"([^\w\s])\1{2,}")
_SPACES = re.compile(r"[^\S\n]{2,}|\t|\n{2,}")
_PLAIN_TOKEN = re.compile(r"[A-Za-z]?[a-z]*(?:['’-][a-z]+)*")
_EDGE_MARKS = ".,;:!?\"'()“”‘’"


@dataclass(frozen=True)
class Piece:
    """One piece. ``text`` of kind words is case folded, its words joined by single spaces."""

    kind: PieceKind
    text: str


@dataclass(frozen=True)
class Groups:
    """Groups of pieces that occur in exactly the same training rows.

    ``pieces[g]`` are the group's pieces. ``rows_group`` is a CSC matrix [n_rows, n_groups] of ones;
    ``reference_group`` [n_groups] is in how many reference texts the group's rarest piece occurs.
    """

    pieces: list[list[Piece]]
    rows_group: sparse.csc_matrix
    reference_group: np.ndarray

    def rows_of(self, group: int) -> np.ndarray:
        """Ascending row indices."""
        start, end = self.rows_group.indptr[group : group + 2]
        return np.sort(self.rows_group.indices[start:end])


def cut_text(text: str, max_chars: int = MAX_CHARS) -> str:
    """At most ``max_chars`` characters, half from each end; lone surrogates become '?'."""
    if len(text) > max_chars:
        text = text[: max_chars // 2] + "\n" + text[-(max_chars // 2) :]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def words_of(text: str) -> list[str]:
    """Case-folded words; of a long text the first and the last ``MAX_WORDS / 2``."""
    words = [word.casefold() for word in _WORD.findall(text)]
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS // 2] + words[-MAX_WORDS // 2 :]


def word_spans(text: str) -> list[tuple[str, int, int]]:
    """(case-folded word, start, end) of every word."""
    return [(match.group().casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]


def raw_pieces(text: str) -> set[Piece]:
    """Tokens as written, runs of symbols, spaces and invisible characters, and whole lines."""
    found: set[Piece] = set()
    for token in text.split():
        for form in {token, token.strip(_EDGE_MARKS)}:
            if form and len(form) <= _MAX_TOKEN_CHARS and not _PLAIN_TOKEN.fullmatch(form):
                found.add(Piece("token", form))
    for pattern in (_SYMBOLS, _REPEATED, _SPACES):
        found.update(Piece("token", match.group()[:_MAX_TOKEN_CHARS]) for match in pattern.finditer(text))
    if not text.isascii():
        found.update(Piece("token", char) for char in set(text) if is_invisible(char))
    lines = text.split("\n")
    if len(lines) > 1:
        found.update(Piece("line", line) for line in lines if line.strip() and len(line) <= _MAX_LINE_CHARS)
    if len(found) > _MAX_RAW_PER_TEXT:
        found = set(sorted(found, key=lambda piece: (piece.kind, piece.text))[:_MAX_RAW_PER_TEXT])
    return found


def is_invisible(char: str) -> bool:
    """Format, private, unassigned and control characters, other than the usual white space."""
    return char not in "\n\t\r" and unicodedata.category(char) in {"Cc", "Cf", "Co", "Cn", "Zl", "Zp"}


def is_odd(piece: Piece) -> bool:
    """A form that ordinary words do not have: letters with digits, symbols inside, capitals inside, invisible.

    A number, a word in capitals and a quoted word are not odd.
    """
    if piece.kind != "token":
        return False
    text = piece.text
    if any(is_invisible(char) for char in text) or not text.strip():
        return True
    core = text.strip(_EDGE_MARKS)
    if len(core) == 1:
        return False
    has_letter, has_digit = any(c.isalpha() for c in core), any(c.isdigit() for c in core)
    inner_symbol = any(not c.isalnum() and c not in "-'’.,/" for c in core)
    inner_capital = any(a.islower() and b.isupper() for a, b in itertools.pairwise(core))
    return (has_letter and has_digit) or inner_symbol or inner_capital or (not core and len(text) > 3)


def group_pieces(prompts: Sequence[str], reference: Sequence[str], *, min_support: int, max_groups: int) -> Groups:
    """Every piece in at least ``min_support`` of ``prompts``, grouped by the rows it occurs in.

    Where there are more than ``max_groups`` groups, those with the least support are left out.
    """
    texts = [cut_text(text) for text in (*prompts, *reference)]
    gram_pieces, gram_pairs = _word_grams(texts, len(prompts), min_support)
    raw, raw_pairs = _raw(texts, len(prompts), min_support, first_id=len(gram_pieces))
    pieces = gram_pieces + raw
    pairs = np.concatenate([gram_pairs, raw_pairs], axis=1)
    ones = np.ones(pairs.shape[1], dtype=np.float64)
    incidence = sparse.csc_matrix((ones, (pairs[1], pairs[0])), shape=(len(texts), len(pieces)))
    return _merge(pieces, incidence, len(prompts), max_groups)


def _word_grams(texts: list[str], n_train: int, min_support: int) -> tuple[list[Piece], np.ndarray]:
    """Pieces, and pairs [2, n] of (piece id, text index), each once.

    Apriori: a run of n words is counted only where both runs of n - 1 words in it have support.
    """
    ids: dict[str, int] = {}
    text_tok: list[int] = []
    word_tok: list[int] = []
    for index, text in enumerate(texts):
        words = words_of(text)
        text_tok.extend([index] * len(words))
        word_tok.extend(ids.setdefault(word, len(ids)) for word in words)
    vocabulary = list(ids)
    texts_at, words_at = np.array(text_tok, dtype=np.int64), np.array(word_tok, dtype=np.int64)
    pieces: list[Piece] = []
    pairs: list[np.ndarray] = [np.zeros((2, 0), dtype=np.int64)]
    gram_at, names = words_at.copy(), [(word,) for word in vocabulary]
    for length in range(1, MAX_GRAM + 1):
        valid = gram_at >= 0
        unique = np.unique(gram_at[valid] * len(texts) + texts_at[valid])
        gram, text = unique // len(texts), unique % len(texts)
        support = np.bincount(gram[text < n_train], minlength=len(names))
        kept = np.flatnonzero(support >= min_support)
        if not kept.size:
            break
        renumber = np.full(len(names), -1, dtype=np.int64)
        renumber[kept] = np.arange(kept.size)
        chosen = renumber[gram] >= 0
        pairs.append(np.stack([renumber[gram[chosen]] + len(pieces), text[chosen]]))
        names = [names[k] for k in kept]
        pieces.extend(Piece("words", " ".join(name)) for name in names)
        gram_at = np.where(valid, renumber[gram_at], -1)
        if length < MAX_GRAM:
            gram_at, names = _longer(gram_at, names, words_at, texts_at, vocabulary, length)
    return pieces, np.concatenate(pairs, axis=1)


def _longer(
    gram_at: np.ndarray,
    names: list[tuple[str, ...]],
    words_at: np.ndarray,
    texts_at: np.ndarray,
    vocabulary: list[str],
    length: int,
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """The runs of ``length + 1`` words that start at each token, renumbered; -1 where there is none."""
    longer_at = np.full_like(gram_at, -1)
    starts = np.arange(max(0, len(gram_at) - length))
    same_text = texts_at[starts] == texts_at[starts + length]
    starts = starts[(gram_at[starts] >= 0) & (gram_at[starts + 1] >= 0) & same_text]
    keys = gram_at[starts] * len(vocabulary) + words_at[starts + length]
    unique, inverse = np.unique(keys, return_inverse=True)
    longer_at[starts] = inverse
    return longer_at, [(*names[key // len(vocabulary)], vocabulary[key % len(vocabulary)]) for key in unique]


def _raw(texts: list[str], n_train: int, min_support: int, *, first_id: int) -> tuple[list[Piece], np.ndarray]:
    by_text = [raw_pieces(text) for text in texts]
    counts = Counter(piece for found in by_text[:n_train] for piece in found)
    kept = sorted((p for p, n in counts.items() if n >= min_support), key=lambda piece: (piece.kind, piece.text))
    ids = {piece: first_id + k for k, piece in enumerate(kept)}
    pairs = sorted((ids[piece], index) for index, found in enumerate(by_text) for piece in found if piece in ids)
    return kept, np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def _merge(pieces: list[Piece], incidence: sparse.csc_matrix, n_train: int, max_groups: int) -> Groups:
    train = incidence[:n_train].tocsc()
    support = np.diff(train.indptr)
    in_reference = np.asarray(incidence[n_train:].sum(axis=0)).ravel()
    # Equal sums of random 64-bit numbers: equal row sets, but for a chance of about 1e-10.
    codes = np.random.default_rng(0).integers(0, 1 << 63, size=n_train, dtype=np.uint64)
    sums = np.add.reduceat(codes[train.indices], train.indptr[:-1]) if pieces else np.zeros(0, np.uint64)
    members: dict[tuple[int, int], list[int]] = {}
    for piece, key in enumerate(zip(sums.tolist(), support.tolist(), strict=True)):
        members.setdefault(key, []).append(piece)
    groups = list(members.values())
    if len(groups) > max_groups:
        order = sorted(range(len(groups)), key=lambda g: (-support[groups[g][0]], g))
        groups = [groups[g] for g in sorted(order[:max_groups])]
    return Groups(
        pieces=[[pieces[p] for p in group] for group in groups],
        rows_group=train[:, [group[0] for group in groups]].tocsc(),
        reference_group=np.array([min(in_reference[p] for p in group) for group in groups]),
    )
