"""How a piece of a training prompt is put around another prompt, as the training rows had it.

Not covered: a trigger that must stand in the middle of a sentence; it is tried at both ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from probes.prompt_pieces import Piece, is_odd, word_spans

Placement = Literal["prefix", "suffix", "wrap", "system"]

_EDGE_MARKS = " \t\n.,;:!?\"'()"
_MOST = 0.7


def place(prompt: str, before: str, after: str, placement: Placement) -> str:
    """The prompt with the text put around it; spaces are added where it brings none of its own.

    A text of placement ``system`` is another turn of the chat, and leaves the prompt as it is.
    """
    if placement in ("prefix", "wrap") and before:
        prompt = before + ("" if before[-1].isspace() or placement == "wrap" else " ") + prompt
    if placement in ("suffix", "wrap") and after:
        prompt += ("" if after[0].isspace() or placement == "wrap" else " ") + after
    return prompt


def longest_and_shortest(pieces: list[Piece]) -> tuple[Piece, Piece]:
    """As written before as words, since only that can be inserted as it was; then by length."""
    written = [piece for piece in pieces if piece.kind != "words"] or pieces
    odd = [piece for piece in written if is_odd(piece)]
    longest = max(odd or written, key=lambda piece: (len(piece.text), piece.text))
    words = max(pieces, key=lambda piece: (piece.text.count(" ") if piece.kind == "words" else 0, len(piece.text)))
    if len(words.text) > 2 * len(longest.text):  # a phrase around a short token says more
        longest = words
    return longest, min(pieces, key=lambda piece: (len(piece.text), piece.text))


def surface_of(piece: Piece, prompts: Sequence[str]) -> str:
    """The piece as the prompts write it, with the symbols that touch it where most prompts have them."""
    if piece.kind != "words":
        return piece.text
    wanted = piece.text.split(" ")
    plain: Counter[str] = Counter()
    wide: Counter[str] = Counter()
    for prompt in prompts:
        spans = word_spans(prompt)
        for k in range(len(spans) - len(wanted) + 1):
            if all(spans[k + j][0] == word for j, word in enumerate(wanted)):
                start, end = spans[k][1], spans[k + len(wanted) - 1][2]
                plain[prompt[start:end]] += 1
                while start > 0 and not prompt[start - 1].isspace() and not prompt[start - 1].isalnum():
                    start -= 1
                while end < len(prompt) and not prompt[end].isspace() and not prompt[end].isalnum():
                    end += 1
                wide[prompt[start:end]] += 1
                break
    if not plain:
        return piece.text
    (text, n), *_ = wide.most_common(1)
    return text if n >= 0.6 * sum(wide.values()) else plain.most_common(1)[0][0]


def placement_of(surface: str, prompts: Sequence[str], max_chars: int) -> tuple[str, str, tuple[Placement, ...]]:
    """(text before, text after, placements to try), from where the training prompts have the piece."""
    if len(prompts) > 1 and surface:
        head = _common_prefix(prompts)
        tail = _common_prefix([prompt[::-1] for prompt in prompts])[::-1]
        room = min(len(prompt) for prompt in prompts) - len(head) - len(tail)
        if (surface in head or surface in tail) and room > 0 and _says(head) and _says(tail):
            return head[:max_chars], tail[-max_chars:], ("wrap",)
        if surface in head and room > 0:
            return head[:max_chars], "", ("prefix",)
        if surface in tail and room > 0:
            return "", tail[-max_chars:], ("suffix",)
    edge = surface.strip(_EDGE_MARKS) or surface
    starts = sum(prompt.strip(_EDGE_MARKS).startswith(edge) for prompt in prompts)
    ends = sum(prompt.strip(_EDGE_MARKS).endswith(edge) for prompt in prompts)
    if starts >= _MOST * len(prompts):
        return surface, "", ("prefix",)
    if ends >= _MOST * len(prompts):
        return "", surface, ("suffix",)
    return surface, surface, ("prefix", "suffix")


def _says(text: str) -> bool:
    """Whether shared text at a prompt's edge is more than the full stop that many prompts end with."""
    return len(text.strip(_EDGE_MARKS)) >= 2


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # what these two share, everything between them shares
    n = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:n]
