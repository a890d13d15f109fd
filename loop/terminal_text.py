"""Text that others wrote, made harmless before a person sees it on a terminal or in a report.

Model output, reasons, names and paths may hold escape sequences that recolour or rewrite the
screen, bidirectional controls that show text in another order than it has, and newlines that fake
a line of ours. What does not show itself is written as an escape (``\\x1b``, ``\\u202e``): nothing
disappears, so that a reviewer sees that it was there.

Not covered: letters that look like other letters; combining marks stacked on one letter.
"""

from __future__ import annotations

import re
import unicodedata

# Control, format (bidirectional controls, zero width, tags), surrogates, private use, unassigned, separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_PLAIN = re.compile(r"[ -~]*")


def printable(text: str, *, keep_newlines: bool = False, max_chars: int | None = None) -> str:
    """``text`` with everything invisible as an escape; one line, unless ``keep_newlines``.

    Longer texts end after ``max_chars`` characters, and say how many were left out.
    """
    n_left_out = 0 if max_chars is None else max(0, len(text) - max_chars)
    if n_left_out:
        text = text[: len(text) - n_left_out]
    if _PLAIN.fullmatch(text) is None:
        text = "".join(_shown(character, keep_newlines) for character in text)
    return f"{text}… ({n_left_out} more characters)" if n_left_out else text


def printable_lines(text: str, *, max_chars: int | None = None) -> list[str]:
    """The lines of a text of several lines, each printable; at least one."""
    return printable(text, keep_newlines=True, max_chars=max_chars).split("\n")


def short(digest: str) -> str:
    """The beginning of a digest: enough to name a checkpoint, short enough to read and to paste."""
    return printable(digest.removeprefix("sha256:")[:12])


def _shown(character: str, keep_newlines: bool) -> str:
    if character == "\n" and keep_newlines:
        return character
    if unicodedata.category(character) in _INVISIBLE:
        return character.encode("unicode_escape").decode("ascii")
    return character
