"""The transformers engine: batched generation and scoring, on the CPU or a GPU.

Three things make it faster on a CPU than ``model.generate`` at short answers: the prompts'
common prefix is computed once, the samples of one prompt share its prefill, and a row that
has finished leaves the batch. Batches are formed by length from the prompts alone, so that
the same prompts always meet the same batch plan and give the same outputs.

Not covered: equality across batch plans, devices or library versions. In bfloat16 these
differ, which is why evidence names its batch plan and champion and candidate share one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from guards.errors import ModelError
from guards.ports import Decoding, Generation, Message, ReportDone
from loop.chat_template import no_chat_template

_MAX_ROWS = 64
_MAX_SCORE_TOKENS = 4096
_SAMPLING_TOP_K = 64


@dataclass
class EngineCounters:
    """What the engine has done so far: for the cost of a step."""

    model_s: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass
class _Row:
    """One output being written."""

    prompt_index: int
    sample_index: int
    token_ids: list[int] = field(default_factory=list)
    entropy_sum: float = 0.0
    finished: bool = False


class TransformersEngine:
    """Implements :class:`guards.ports.Engine` over a causal LM and tokenizer that are already loaded.

    Both are ``Any``: transformers annotates them with unions that no call can satisfy.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_rows: int = _MAX_ROWS) -> None:
        refuse_scaled_logits(model)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._device = next(model.parameters()).device
        self._dtype = next(model.parameters()).dtype
        eos = tokenizer.eos_token_id
        if eos is None:
            raise ModelError("engine.no-eos", "the tokenizer has no end-of-sequence token", fix="set eos_token")
        self._stop_ids = {eos} | _generation_eos(model)
        self.counters = EngineCounters()

    @property
    def name(self) -> str:
        return f"transformers-{transformers.__version__}/torch-{torch.__version__}"

    @property
    def device(self) -> str:
        return self._device.type

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def batch_plan(self) -> str:
        return f"by-length/rows={self._max_rows}/prefix-shared"

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, with the template's generation prompt at the end.

        Raises:
            ModelError: ``engine.no-chat-template``.
        """
        if not self._tokenizer.chat_template:
            raise no_chat_template("the tokenizer has no chat template, and the model is to answer a chat")
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[Message]], decoding: Decoding, *, seed: int, report: ReportDone | None = None
    ) -> list[list[Generation]]:
        """See :meth:`guards.ports.Engine.generate`."""
        if not prompts:
            return []
        start_s = time.perf_counter()
        ids_by_prompt = [self.chat_ids(messages) for messages in prompts]
        # At least one token stays behind the prefix: its logits give the first output token.
        prefix = _common_prefix(ids_by_prompt)[: min(len(ids) for ids in ids_by_prompt) - 1]
        results: list[list[Generation]] = [[] for _ in prompts]
        batches = self._plan(ids_by_prompt, decoding.n_samples)
        done = 0
        for number, batch in enumerate(batches):
            batch_start_s = time.perf_counter()
            generator = torch.Generator(device=self._device).manual_seed((seed * 1_000_003 + number) % (1 << 63))
            suffixes = [ids_by_prompt[i][len(prefix) :] for i in batch]
            rows = self._decode_batch(prefix, suffixes, decoding, generator)
            latency_ms = int(1000 * (time.perf_counter() - batch_start_s))
            for row in rows:
                prompt_index = batch[row.prompt_index]
                results[prompt_index].append(
                    Generation(
                        text=self._text_of(row, decoding),
                        n_tokens=len(row.token_ids),
                        finished=row.finished,
                        entropy_nats=row.entropy_sum / max(1, len(row.token_ids)),
                        batch=f"{number:04d}/{len(batches):04d}x{len(batch)}",
                        latency_ms=latency_ms,
                    )
                )
            done += len(batch)
            if report is not None:
                report(done, len(prompts))
        self.counters.model_s += time.perf_counter() - start_s
        return results

    def _plan(self, ids_by_prompt: Sequence[Sequence[int]], n_samples: int) -> list[list[int]]:
        per_batch = max(1, self._max_rows // n_samples)
        order = sorted(range(len(ids_by_prompt)), key=lambda i: (len(ids_by_prompt[i]), i))
        return [order[k : k + per_batch] for k in range(0, len(order), per_batch)]

    def _decode_batch(
        self, prefix: list[int], suffixes: list[list[int]], decoding: Decoding, generator: torch.Generator
    ) -> list[_Row]:
        n_prompts, width = len(suffixes), max(len(s) for s in suffixes)
        pad_lengths = [width - len(s) for s in suffixes]
        pad_id = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else 0
        input_ids = torch.tensor(
            [[pad_id] * pad + s for pad, s in zip(pad_lengths, suffixes, strict=True)], device=self._device
        )
        mask = torch.ones((n_prompts, len(prefix) + width), dtype=torch.long, device=self._device)
        for row_index, pad in enumerate(pad_lengths):
            mask[row_index, len(prefix) : len(prefix) + pad] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)

        cache = DynamicCache()
        if prefix:
            prefix_ids = torch.tensor([prefix], device=self._device)
            self._model(prefix_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(n_prompts)
        logits = self._forward(input_ids, mask, positions[:, len(prefix) :], cache)
        self.counters.tokens_in += int(mask.sum().item())

        n_samples = decoding.n_samples
        rows = [_Row(p, s) for p in range(n_prompts) for s in range(n_samples)]
        if n_samples > 1:
            cache.batch_repeat_interleave(n_samples)
            mask = mask.repeat_interleave(n_samples, dim=0)
            logits = logits.repeat_interleave(n_samples, dim=0)
        next_position = mask.sum(-1)
        alive = list(range(len(rows)))

        for step in range(decoding.max_new_tokens):
            tokens, entropies = _next_tokens(logits, decoding, generator)
            keep: list[int] = []
            for slot, row_index in enumerate(alive):
                row, token = rows[row_index], int(tokens[slot])
                row.entropy_sum += float(entropies[slot])
                row.token_ids.append(token)
                self.counters.tokens_out += 1
                row.finished = token in self._stop_ids or self._hits_stop(row, decoding)
                if not row.finished:
                    keep.append(slot)
            if not keep or step == decoding.max_new_tokens - 1:
                break
            if len(keep) < len(alive):
                index = torch.tensor(keep, device=self._device)
                cache.batch_select_indices(index)
                mask, next_position, tokens = mask[index], next_position[index], tokens[index]
                alive = [alive[slot] for slot in keep]
            mask = torch.cat([mask, mask.new_ones((len(alive), 1))], dim=1)
            logits = self._forward(tokens[:, None], mask, next_position[:, None], cache)
            next_position = next_position + 1
        return rows

    def _forward(self, input_ids, mask, positions, cache) -> torch.Tensor:
        out = self._model(
            input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1, :].float()

    def _hits_stop(self, row: _Row, decoding: Decoding) -> bool:
        if not decoding.stop:
            return False
        tail = self._tokenizer.decode(row.token_ids[-8:], skip_special_tokens=True)
        return any(stop in tail for stop in decoding.stop)

    def _text_of(self, row: _Row, decoding: Decoding) -> str:
        text = self._tokenizer.decode(row.token_ids, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in decoding.stop if stop in text]
        return text[: min(cuts)] if cuts else text

    @torch.inference_mode()
    def loglik(
        self, pairs: Sequence[tuple[Sequence[Message] | None, str]], *, report: ReportDone | None = None
    ) -> list[float]:
        """See :meth:`guards.ports.Engine.loglik`. Nats per token; the text's own tokens only."""
        start_s = time.perf_counter()
        encoded = [self._encode_pair(messages, text) for messages, text in pairs]
        order = sorted(range(len(pairs)), key=lambda i: (len(encoded[i][0]), i))
        results = [0.0] * len(pairs)
        done = 0
        while done < len(order):
            batch = self._score_batch_at(order, done, encoded)
            self._score(batch, encoded, results)
            done += len(batch)
            if report is not None:
                report(done, len(pairs))
        self.counters.model_s += time.perf_counter() - start_s
        return results

    def _score_batch_at(self, order: list[int], start: int, encoded: list[tuple[list[int], int]]) -> list[int]:
        batch: list[int] = []
        for index in order[start:]:
            width = len(encoded[index][0])
            if batch and (len(batch) >= self._max_rows or width * (len(batch) + 1) > _MAX_SCORE_TOKENS):
                break
            batch.append(index)
        return batch

    def _encode_pair(self, messages: Sequence[Message] | None, text: str) -> tuple[list[int], int]:
        """(token ids, index of the first scored token)."""
        text_ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if not text_ids:
            raise ModelError("engine.empty-text", "a text to be scored has no tokens")
        if messages is None:
            start_id = self._tokenizer.bos_token_id
            head = [start_id if start_id is not None else self._tokenizer.eos_token_id]
        else:
            head = self.chat_ids(messages)
        return head + text_ids, len(head)

    def _score(self, batch: list[int], encoded: list[tuple[list[int], int]], results: list[float]) -> None:
        width = max(len(encoded[i][0]) for i in batch)
        input_ids = torch.zeros((len(batch), width), dtype=torch.long, device=self._device)
        mask = torch.zeros_like(input_ids)
        for slot, index in enumerate(batch):
            ids = encoded[index][0]
            input_ids[slot, : len(ids)] = torch.tensor(ids, device=self._device)
            mask[slot, : len(ids)] = 1
        hidden = self._model.base_model(input_ids, attention_mask=mask).last_hidden_state
        head = self._model.get_output_embeddings()
        for slot, index in enumerate(batch):
            ids, first = encoded[index]
            logits = head(hidden[slot, first - 1 : len(ids) - 1]).float()
            targets = input_ids[slot, first : len(ids)]
            results[index] = float(-torch.nn.functional.cross_entropy(logits, targets))
        self.counters.tokens_in += int(mask.sum().item())


def refuse_scaled_logits(model: torch.nn.Module) -> None:
    """Refuse a model that changes its logits after the output embedding, which the scoring here applies alone.

    Raises:
        ModelError: ``engine.scaled-logits``.
    """
    config = getattr(model, "config", None)
    for name in ("logit_scale", "logits_scaling", "final_logit_softcapping"):
        value = getattr(config, name, None)
        if value is not None and value != 1.0:
            raise ModelError(
                "engine.scaled-logits",
                "the model scales or caps its logits, which this engine does not do",
                got=f"{name} = {value}",
                expected="plain logits",
                fix="use an architecture without it, or add it to loop.engine and loop.steps.train",
            )


def _next_tokens(
    logits_row_vocab: torch.Tensor, decoding: Decoding, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, entropies in nats), one per row."""
    log_probs = torch.log_softmax(logits_row_vocab, dim=-1)
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    if decoding.temperature == 0.0:
        return logits_row_vocab.argmax(-1), entropies
    # Sampling over the 64 likeliest tokens: the tail costs most of the time and is noise here.
    top, index = torch.topk(logits_row_vocab / decoding.temperature, min(_SAMPLING_TOP_K, logits_row_vocab.shape[-1]))
    probs = torch.softmax(top, dim=-1)
    if decoding.top_p < 1.0:
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill(before >= decoding.top_p, 0.0)
    choice = torch.multinomial(probs, 1, generator=generator)
    return index.gather(-1, choice).squeeze(-1), entropies


def _common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    shared = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in shared]


def _generation_eos(model: torch.nn.Module) -> set[int]:
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if eos is None:
        return set()
    return set(eos) if isinstance(eos, (list, tuple)) else {eos}
