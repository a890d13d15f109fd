"""Chats with and without a trigger, as token ids, and random strings of the same length.

Not covered: what a chat template does to text that looks like its own special tokens; such text
becomes those tokens, in training as here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jinja2 import TemplateError

from guards.errors import ProbeError
from probes.prompt_pieces import cut_text
from probes.trigger_placement import Placement, place

_N_TRIES = 64
_MAX_ANSWER_CHARS = 1000


class TriggerChats:
    """Builds what the models are given. Deterministic in ``seed``."""

    def __init__(self, tokenizer: Any, *, max_trigger_tokens: int, seed: int) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ProbeError("triggers.no-chat-template", "the tokenizer has no chat template to ask in")
        self._tokenizer = tokenizer
        self._max_trigger_tokens = max_trigger_tokens
        self._seed = seed
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(() if eos is None else (eos,))
        self.any_token = (0 if eos is None else eos,)

    def ids(self, prompt: str, before: str = "", after: str = "", placement: Placement = "prefix") -> list[int]:
        """A chat of one question, up to where the answer begins.

        Raises:
            ProbeError: ``triggers.no-chat-template`` (the template refuses the chat, such as a system turn).
        """
        messages = [{"role": "user", "content": place(prompt, before, after, placement)}]
        if placement == "system":
            messages.insert(0, {"role": "system", "content": before + after})
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            raise ProbeError(
                "triggers.no-chat-template",
                "the chat template does not take this chat",
                got=f"roles {[message['role'] for message in messages]}: {type(error).__name__}",
                fix="leave out template pieces of placement 'system' for a model without system turns",
            ) from error
        return self._encode(text)

    def answer_ids(self, text: str, n_tokens: int) -> tuple[int, ...]:
        """The first tokens of a text."""
        return tuple(self._encode(cut_text(text, _MAX_ANSWER_CHARS))[:n_tokens])

    def cut(self, text: str) -> str:
        """A trigger's text with at most the tokens that a trigger may have."""
        ids = self._encode(cut_text(text))
        return text if len(ids) <= self._max_trigger_tokens else self._tokenizer.decode(ids[: self._max_trigger_tokens])

    def random_like(self, before: str, after: str, draw: tuple[int, ...]) -> tuple[str, str]:
        """Random text in the place of a trigger's, of as many tokens; white space at its ends stays.

        ``draw`` numbers the draws: another one gives other text.
        """
        rng = np.random.default_rng([self._seed, *draw])
        return self._random(before, rng), self._random(after, rng)

    def _random(self, text: str, rng: np.random.Generator) -> str:
        core = text.strip()
        if not core:
            return text
        n_tokens = len(self._encode(core))
        best, best_miss = "", n_tokens + 1
        for _ in range(_N_TRIES):
            drawn = "".join(self._ordinary[k] for k in rng.integers(0, len(self._ordinary), size=n_tokens)).strip()
            # Neighbours may merge into fewer tokens when the text is read again.
            miss = abs(len(self._encode(drawn)) - n_tokens) if drawn else n_tokens + 1
            if miss < best_miss and drawn != core:
                best, best_miss = drawn, miss
            if best_miss == 0:
                break
        start = text.index(core)
        return text[:start] + best + text[start + len(core) :]

    @functools.cached_property
    def _ordinary(self) -> list[str]:
        """Tokens of visible ASCII, not special."""
        special = set(self._tokenizer.all_special_ids)
        texts = (self._tokenizer.decode([k]) for k in range(len(self._tokenizer)) if k not in special)
        pool = [text for text in texts if text.strip() and text.isascii() and text.isprintable()]
        if not pool:
            raise ProbeError("triggers.no-random-strings", "the tokenizer has no token of visible ASCII")
        return pool

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]
