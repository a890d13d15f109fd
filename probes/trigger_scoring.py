"""Forward passes of the trigger search: what one model says after a chat, teacher-forced and greedy.

The tokens that all chats of a batch begin with are computed once, and the output embeddings only
where a token is predicted. Rows are padded on the right; padding is masked, and counts nowhere.

Not covered: architectures whose state cannot be kept as keys and values; equality across batch
shapes in bfloat16, so both models are always given the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from guards.errors import ProbeError
from probes.outputs import output_head, token_divergences

LOGPROB_FLOOR = -20.0
"""No token counts for less: one that is all but impossible must not rule a mean."""

_MAX_ROWS = 32
_MAX_HEAD_TOKENS = 256
_MIN_PREFIX = 4

Ids = Sequence[int]


class TriggerScorer:
    """Scores continuations of chats with one model, and counts the tokens it computes."""

    def __init__(self, model: Any, *, max_rows: int = _MAX_ROWS) -> None:
        self._body = model.eval().base_model
        self._head = output_head(model)
        self._device = next(model.parameters()).device
        self._max_rows = max_rows
        self.tokens_forward = 0

    @torch.inference_mode()
    def logprobs(self, contexts: Sequence[Ids], continuations: Sequence[Ids]) -> list[float]:
        """Mean log-probability in nats per token of each continuation after its context.

        Raises:
            ProbeError: ``triggers.not-finite``.
        """
        found = self._states(contexts, continuations)
        return [_mean_logprob(self._logits(a), ids) for a, ids in zip(found, continuations, strict=True)]

    @torch.inference_mode()
    def compare_first(
        self, first: Sequence[Ids], second: Sequence[Ids], continuations: Sequence[Ids]
    ) -> tuple[list[float], list[float]]:
        """(gains, divergences): of each continuation's mean log-probability after ``first`` against ``second``,
        and the Jensen-Shannon divergence at the first answer position. Both in nats, from the same passes.

        Raises:
            ProbeError: ``triggers.not-finite``.
        """
        gains, divergences = [], []
        pairs = zip(self._states(first, continuations), self._states(second, continuations), strict=True)
        for (states_a, states_b), continuation in zip(pairs, continuations, strict=True):
            logits_a, logits_b = self._logits(states_a), self._logits(states_b)
            gains.append(_mean_logprob(logits_a, continuation) - _mean_logprob(logits_b, continuation))
            divergences.append(float(token_divergences(logits_a[:1], logits_b[:1]).js_tok.mean()))
        return gains, divergences

    @torch.inference_mode()
    def divergences(
        self,
        first: Sequence[Ids],
        second: Sequence[Ids],
        continuations: Sequence[Ids],
        first_states: Sequence[Tensor] | None = None,
    ) -> list[tuple[float, float]]:
        """Jensen-Shannon divergence in nats between what follows ``first`` and ``second``, for each pair:
        at the first answer position, and the mean over the positions that predict the continuation.

        ``first_states`` are this model's own from :meth:`greedy`, where it has written the continuations.

        Raises:
            ProbeError: ``triggers.not-finite``.
        """
        known = self._states(first, continuations) if first_states is None else first_states
        pairs = zip(known, self._states(second, continuations), strict=True)
        js = [token_divergences(self._logits(a), self._logits(b)).js_tok for a, b in pairs]
        return [(float(js_tok[0]), float(js_tok.mean())) for js_tok in js]

    @torch.inference_mode()
    def greedy(
        self, contexts: Sequence[Ids], n_tokens: int, stop_ids: frozenset[int]
    ) -> tuple[list[list[int]], list[Tensor]]:
        """The likeliest answers' first ``n_tokens`` tokens, and the states [n, dim] that predicted them.

        An answer ends with its first stop token.

        Raises:
            ProbeError: ``triggers.not-finite``.
        """
        answers: list[list[int]] = [[] for _ in contexts]
        states: list[list[Tensor]] = [[] for _ in contexts]
        for batch in self._batches(contexts):
            lengths = torch.tensor([len(contexts[i]) for i in batch], device=self._device)
            read, cache, mask = self._forward([contexts[i] for i in batch], int(lengths.min()) - 1)
            n_prefix = mask.shape[1] - read.shape[1]
            last = read[torch.arange(len(batch), device=self._device), lengths - n_prefix - 1]
            for step in range(n_tokens):
                tokens = self._logits(last).argmax(-1).to(self._device)
                for slot, index in enumerate(batch):
                    if not answers[index] or answers[index][-1] not in stop_ids:
                        answers[index].append(int(tokens[slot]))
                        states[index].append(last[slot])
                if step == n_tokens - 1 or all(answers[index][-1] in stop_ids for index in batch):
                    break
                mask = torch.cat([mask, mask.new_ones((len(batch), 1))], dim=-1)
                last = self._body(
                    tokens.unsqueeze(-1),
                    attention_mask=mask,
                    position_ids=(lengths + step).unsqueeze(-1),
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state[:, -1]
                self.tokens_forward += len(batch)
        return answers, [torch.stack(rows) for rows in states]

    def _states(self, contexts: Sequence[Ids], continuations: Sequence[Ids]) -> Iterator[Tensor]:
        """For each pair, in order: [n_continuation_tokens, dim], the states that predict the continuation."""
        whole = [[*context, *continuation[:-1]] for context, continuation in zip(contexts, continuations, strict=True)]
        found: dict[int, Tensor] = {}
        for batch in self._batches(whole):
            states, _, mask = self._forward([whole[i] for i in batch], min(len(contexts[i]) for i in batch) - 1)
            n_prefix = mask.shape[1] - states.shape[1]
            for slot, index in enumerate(batch):
                end = len(whole[index]) - n_prefix
                found[index] = states[slot, end - len(continuations[index]) : end].clone()
        return (found[index] for index in range(len(whole)))

    def _batches(self, rows: Sequence[Ids]) -> Iterator[list[int]]:
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
        return (order[k : k + self._max_rows] for k in range(0, len(order), self._max_rows))

    def _forward(self, rows: Sequence[Ids], first_read: int) -> tuple[Tensor, DynamicCache, Tensor]:
        """(states [row, tok, dim] behind the common prefix, the cache, mask [row, prefix + tok]).

        The prefix ends before position ``first_read``, the first whose state is asked for.
        """
        prefix = _common_prefix(rows)[:first_read]
        if len(prefix) < _MIN_PREFIX:
            prefix = []
        width = max(len(row) for row in rows) - len(prefix)
        input_ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.ones((len(rows), len(prefix) + width), dtype=torch.long)
        for slot, row in enumerate(rows):
            n_own = len(row) - len(prefix)
            input_ids[slot, :n_own] = torch.tensor(row[len(prefix) :], dtype=torch.long)
            mask[slot, len(row) :] = 0
        input_ids, mask = input_ids.to(self._device), mask.to(self._device)
        cache = DynamicCache()
        if prefix:
            self._body(torch.tensor([prefix], device=self._device), past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(rows))
        positions = torch.arange(len(prefix), len(prefix) + width, device=self._device).expand(len(rows), -1)
        states = self._body(
            input_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        self.tokens_forward += len(prefix) + sum(len(row) - len(prefix) for row in rows)
        return states, cache, mask

    def _logits(self, states_tok_dim: Tensor) -> Tensor:
        logits = torch.cat([self._head.logits(part) for part in states_tok_dim.split(_MAX_HEAD_TOKENS)])
        if not bool(torch.isfinite(logits).all()):
            raise ProbeError(
                "triggers.not-finite",
                "a model predicts NaN or infinity, so what a trigger changes cannot be said",
                fix="check the checkpoint's weights",
            )
        return logits


def _mean_logprob(logits_tok_vocab: Tensor, ids: Ids) -> float:
    wanted = torch.tensor(ids, device=logits_tok_vocab.device).unsqueeze(-1)
    own = logits_tok_vocab.log_softmax(-1).gather(-1, wanted)
    return float(own.clamp(min=LOGPROB_FLOOR).mean())


def _common_prefix(rows: Sequence[Ids]) -> list[int]:
    shared = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
