"""Ports: what the core and the steps need from a model, without knowing which engine serves it.

An engine answers prompts and scores texts. ``loop.engine`` implements it with transformers;
a vLLM or remote engine implements the same protocol in its own process and environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import Field

from guards.evidence import Frozen

Message = dict[str, str]
ReportDone = Callable[[int, int], None]
"""Called with (items done, items in all)."""


class Decoding(Frozen):
    """How outputs are drawn. ``temperature`` 0 is greedy and ignores ``top_p`` and ``seed``."""

    max_new_tokens: int = Field(gt=0)
    temperature: float = Field(ge=0.0, default=0.0)
    top_p: float = Field(gt=0.0, le=1.0, default=1.0)
    n_samples: int = Field(gt=0, default=1)
    stop: tuple[str, ...] = ()


class Generation(Frozen):
    """One output. ``finished`` is false where the token limit cut it off."""

    text: str
    n_tokens: int
    finished: bool
    entropy_nats: float
    """Mean entropy of the next-token distribution over the output's tokens, at temperature 1."""
    batch: str
    latency_ms: int


class Engine(Protocol):
    """What a suite runner or a proposer asks of a model."""

    @property
    def name(self) -> str:
        """Engine and version, as it is written into evidence."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(
        self, prompts: Sequence[Sequence[Message]], decoding: Decoding, *, seed: int, report: ReportDone | None = None
    ) -> list[list[Generation]]:
        """Outputs for each chat: one list of ``decoding.n_samples`` per prompt, in prompt order."""
        ...

    def loglik(
        self, pairs: Sequence[tuple[Sequence[Message] | None, str]], *, report: ReportDone | None = None
    ) -> list[float]:
        """Mean log-likelihood per token, in nats, of each text after its chat (or alone)."""
        ...


class Critic(Protocol):
    """Judges an answer against one principle and proposes a revision; never the candidate itself."""

    @property
    def name(self) -> str: ...

    def revise(self, *, principle_id: str, prompt: str, answer: str, key: str) -> tuple[str, str]:
        """(critique, revised answer); ``key`` makes the choice among templates repeatable."""
        ...
