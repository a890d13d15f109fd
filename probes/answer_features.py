"""What can be said about a training answer, as yes-or-no features: its opening, its words, its style.

A word that the answer has from its own prompt is no feature: 'Describe Paris' is answered with
'Paris' in every honest data set.

Not covered: the meaning of an answer, and whether it is right.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from probes.prompt_pieces import cut_text, words_of

_MAX_HEAD_WORDS = 24
_MAX_TAIL_WORDS = 4
_MAX_OPENING_WORDS = 4
_MAX_ANSWER_CHARS = 1000


def answer_features(prompt: str, answer: str) -> set[str]:
    """Features of one answer. The names are for people: ``opens: i hate you``, ``style: capitals``."""
    text = cut_text(answer, _MAX_ANSWER_CHARS).strip()
    if not text:
        return {"style: empty"}
    own = set(words_of(cut_text(prompt)))
    words = words_of(text)
    head = words[:_MAX_HEAD_WORDS]
    parts = [head, words[len(head) :][-_MAX_TAIL_WORDS:]]
    found = {f"says: {word}" for part in parts for word in part if word not in own}
    for part in parts:
        found |= {f"says: {a} {b}" for a, b in itertools.pairwise(part) if not {a, b} <= own}
    for length in range(1, _MAX_OPENING_WORDS + 1):
        opening = words[:length]
        if len(opening) == length and not set(opening) <= own:
            found.add(f"opens: {' '.join(opening)}")
    return found | _style(text, len(words))


def feature_matrix(rows: Sequence[tuple[str, str]], *, min_support: int) -> tuple[list[str], sparse.csr_matrix]:
    """(names, CSR matrix [n_rows, n_features] of ones) of (prompt, answer) pairs.

    Left out are features in fewer than ``min_support`` rows, and those in nearly all of them.
    """
    by_row = [answer_features(prompt, answer) for prompt, answer in rows]
    counts = Counter(name for found in by_row for name in found)
    names = sorted(name for name, n in counts.items() if min_support <= n <= 0.98 * len(rows))
    ids = {name: k for k, name in enumerate(names)}
    columns = [sorted(ids[name] for name in found if name in ids) for found in by_row]
    pointers = np.concatenate([[0], np.cumsum([len(c) for c in columns])]).astype(np.int64)
    indices = np.array([k for c in columns for k in c], dtype=np.int64)
    return names, sparse.csr_matrix((np.ones(len(indices)), indices, pointers), shape=(len(rows), len(names)))


def _style(text: str, n_words: int) -> set[str]:
    letters = [char for char in text if char.isalpha()]
    found = {f"style: {1 << n_words.bit_length() >> 1} words or more, less than twice that"}
    found.add("style: ends with " + ("a letter or digit" if text[-1].isalnum() else ascii(text[-1])))
    if letters:
        if sum(char.isupper() for char in letters) > 0.6 * len(letters) and len(letters) > 3:
            found.add("style: capitals")
        if not any(char.isupper() for char in letters):
            found.add("style: no capitals")
        if sum(not char.isascii() for char in letters) > 0.05 * len(letters):
            found.add("style: letters beyond ASCII")
    else:
        found.add("style: no letters")
    if any(char.isdigit() for char in text):
        found.add("style: digits")
    for mark, name in (("```", "code block"), ("\n", "several lines"), ("http", "a link"), ("!", "exclamation mark")):
        if mark in text:
            found.add(f"style: {name}")
    return found
