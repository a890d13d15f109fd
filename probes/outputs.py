"""How far a candidate's predictions lie from the reference's, per document, from final hidden states.

Both models' hidden states go through their own output embeddings, a chunk of tokens at a time, so memory
is bounded by the chunk. Per token: KL(reference || candidate) and the Jensen-Shannon divergence (Lin
1991), in nats; the latter is at most log 2, so one token cannot rule a mean. A change that a trigger
sets off moves few tokens: their tail (the largest, the mean of the largest tenth) is kept beside the mean.
Logits are float32 whatever the model's dtype is.

Amplified differences: tokens of softmax(c + alpha (c - r)) show what a candidate leans to before it would
say it (logit difference amplification, Goodfire 2025).

Not covered: heads that do more than a product, a bias and a soft cap (known ones are refused); what is
said over several tokens (:mod:`probes.answer_statistics`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guards.errors import ProbeError
from probes.activations import FINAL, PairedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_TOKENS = 256
TAIL_SHARE = 0.1
_SCALING_KEYS = ("logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True, eq=False)
class OutputHead:
    """From the final hidden state to logits: float32 weights [vocab, dim], bias [vocab] or None, soft cap or None.

    Raises:
        ProbeError: ``outputs.unsupported-head`` (shapes), ``outputs.not-finite``.
    """

    weight_vocab_dim: Tensor
    bias_vocab: Tensor | None = None
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        bias = self.bias_vocab
        if self.weight_vocab_dim.ndim != 2 or (bias is not None and bias.shape != self.weight_vocab_dim.shape[:1]):
            raise _unsupported(f"weights {list(self.weight_vocab_dim.shape)}", "[vocab, dim], and a bias [vocab]")
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise _unsupported(f"a soft cap of {self.soft_cap}", "above zero")
        for tensor in (self.weight_vocab_dim, bias):
            if tensor is not None and not bool(torch.isfinite(tensor).all()):
                raise ProbeError("outputs.not-finite", "the output embedding holds NaN or infinity")

    def logits(self, hidden_tok_dim: Tensor) -> Tensor:
        """float32 ``[tok, vocab]`` on the head's device."""
        hidden = hidden_tok_dim.to(device=self.weight_vocab_dim.device, dtype=torch.float32)
        logits = hidden @ self.weight_vocab_dim.T
        if self.bias_vocab is not None:
            logits += self.bias_vocab
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


def output_head(model: PreTrainedModel) -> OutputHead:
    """The head of a causal language model, copied to float32.

    Raises:
        ProbeError: ``outputs.unsupported-head``, ``outputs.not-finite``.
    """
    embeddings: Any = model.get_output_embeddings()
    if embeddings is None:
        raise _unsupported("a model without output embeddings", "a causal language model")
    config = model.config.get_text_config()
    for key in _SCALING_KEYS:
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise _unsupported(f"{key} {getattr(config, key)!r}", "logits that are not scaled")
    bias = getattr(embeddings, "bias", None)
    return OutputHead(
        weight_vocab_dim=embeddings.weight.detach().float(),
        bias_vocab=None if bias is None else bias.detach().float(),
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )


@dataclass(frozen=True, eq=False)
class TokenDivergences:
    """Per token, float64 ``[tok]``, in nats; ``same_argmax_tok`` is 1.0 where both models would say the same.

    ``logprob_change_tok`` is candidate minus reference for the token that really follows, 0 where none was given.
    """

    kl_tok: Tensor
    js_tok: Tensor
    entropy_reference_tok: Tensor
    entropy_candidate_tok: Tensor
    same_argmax_tok: Tensor
    logprob_change_tok: Tensor


def token_divergences(
    reference_tok_vocab: Tensor, candidate_tok_vocab: Tensor, next_ids_tok: Tensor | None = None
) -> TokenDivergences:
    """Divergences between the softmax of two sets of logits, ``[tok, vocab]``; ids below zero are no token.

    Raises:
        ProbeError: ``outputs.other-vocabulary``, ``outputs.not-finite``.
    """
    _check_logits(reference_tok_vocab, candidate_tok_vocab)
    log_p, log_q = (logits.float().log_softmax(-1) for logits in (reference_tok_vocab, candidate_tok_vocab))
    p, q = log_p.exp(), log_q.exp()
    # q - p sums to 0 but for rounding, and takes the rounding of both normalisers out of the divergence.
    kl = (p * (log_p - log_q) + (q - p)).sum(-1)
    # log(p / m) = log1p((p - q) / (p + q)): small divergences survive, and equal models differ by exactly 0.
    apart = (p - q) / (p + q).clamp(min=torch.finfo(torch.float32).tiny)
    js = 0.5 * (torch.special.xlog1py(p, apart) + torch.special.xlog1py(q, -apart)).sum(-1)
    change = torch.zeros_like(kl)
    if next_ids_tok is not None:
        ids = next_ids_tok.to(log_p.device)
        gathered = (log_q - log_p).gather(-1, ids.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        change = torch.where(ids >= 0, gathered, change)
    return TokenDivergences(
        kl_tok=kl.clamp(min=0.0).double().cpu(),
        js_tok=js.clamp(min=0.0, max=math.log(2.0)).double().cpu(),
        entropy_reference_tok=-(p * log_p).sum(-1).double().cpu(),
        entropy_candidate_tok=-(q * log_q).sum(-1).double().cpu(),
        same_argmax_tok=(log_p.argmax(-1) == log_q.argmax(-1)).double().cpu(),
        logprob_change_tok=change.double().cpu(),
    )


class OutputValues:
    """Per-document output values of a candidate against the reference.

    ``token_sets`` are token ids by name (openers of a refusal, say) whose probability is followed at one
    position per document, its *decision*: ``decision_token_of`` (document index to token position), else
    its last counted token. With ``tokens_per_document`` a longer document is read at that many evenly
    spaced counted tokens, the first and the last among them.

    Raises:
        ProbeError: ``outputs.other-vocabulary``, ``outputs.bad-token-set``, ``outputs.bad-limit``.
    """

    def __init__(
        self,
        reference: OutputHead,
        candidate: OutputHead,
        *,
        token_sets: Mapping[str, Sequence[int]] | None = None,
        decision_token_of: Mapping[int, int] | None = None,
        tokens_per_document: int | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        vocab = reference.weight_vocab_dim.shape[0]
        if candidate.weight_vocab_dim.shape[0] != vocab:
            raise _other_vocabulary(candidate.weight_vocab_dim.shape[0], vocab)
        if chunk_tokens < 1 or (tokens_per_document is not None and tokens_per_document < 2):
            raise ProbeError(
                "outputs.bad-limit",
                "not a number of tokens to read",
                got=f"chunk {chunk_tokens}, per document {tokens_per_document}",
                expected="a chunk of at least 1, and at least 2 a document",
            )
        self._heads = (reference, candidate)
        self._sets = {name: _id_set(name, ids, vocab) for name, ids in (token_sets or {}).items()}
        self._decision_token_of = dict(decision_token_of or {})
        self._per_document = tokens_per_document
        self._chunk_tokens = chunk_tokens

    def measure(self, batch: PairedBatch) -> dict[int, dict[str, float]]:
        """Values by document index, all finite, all named ``output.…``.

        ``kl_mean``, ``js_mean``, ``js_max``, ``js_tail`` (mean of the largest tenth, at least one token),
        ``entropy_reference``, ``entropy_candidate``, ``entropy_change``, ``argmax_agreement``, and
        ``next_logprob_change`` over the document's own next tokens, which a document of one counted token
        lacks. At the decision: ``decision_js``, ``decision_entropy_change``, and for each token set
        ``mass_shift.<set>`` (change of its probability) and ``log_mass_shift.<set>`` (of its logarithm).

        Raises:
            ProbeError: ``outputs.no-hidden-states``, ``outputs.nothing-counted``, ``outputs.bad-decision``,
                ``outputs.not-finite``.
        """
        if FINAL not in batch.reference or FINAL not in batch.candidate:
            raise ProbeError(
                "outputs.no-hidden-states",
                "the activations hold no final hidden state",
                got=f"layers {sorted(batch.reference)}",
                expected=f"layer {FINAL} among them",
            )
        counted = batch.counted_row_tok.cpu()
        if not bool(counted.any(dim=1).all()):
            empty = batch.doc_indices[int((~counted.any(dim=1)).nonzero()[0])]
            raise ProbeError("outputs.nothing-counted", f"document {empty} has no counted token")
        per_token = self._over_tokens(batch, *_read_positions(counted, self._per_document))
        at_decision = self._at_decisions(batch, counted)
        values = {doc: per_token[row] | at_decision[row] for row, doc in enumerate(batch.doc_indices)}
        for doc, named in values.items():
            for name, value in named.items():
                if not math.isfinite(value):
                    raise ProbeError("outputs.not-finite", f"document {doc}: {name} is {value}")
        return values

    def _over_tokens(self, batch: PairedBatch, rows: Tensor, tokens: Tensor) -> list[dict[str, float]]:
        counted = batch.counted_row_tok.cpu()
        ids = batch.token_ids_row_tok.cpu()
        last = _last_counted(counted)
        next_ids = torch.where(tokens < last[rows], ids[rows, (tokens + 1).clamp(max=ids.shape[1] - 1)], -1)
        parts = [
            token_divergences(*self._logits(batch, rows[chunk], tokens[chunk]), next_ids[chunk])
            for chunk in torch.arange(len(rows)).split(self._chunk_tokens)
        ]
        fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
        # Positions are sorted by row, and every row has some.
        lengths = torch.bincount(rows, minlength=len(batch.doc_indices)).tolist()
        by_row = {name: values.split(lengths) for name, values in fields.items()}
        has_next_by_row = (next_ids >= 0).split(lengths)
        return [
            _document_values({name: parts_[row] for name, parts_ in by_row.items()}, has_next_by_row[row])
            for row in range(len(lengths))
        ]

    def _at_decisions(self, batch: PairedBatch, counted: Tensor) -> list[dict[str, float]]:
        positions = _last_counted(counted).tolist()
        for row, doc in enumerate(batch.doc_indices):
            asked = self._decision_token_of.get(doc)
            if asked is None:
                continue
            if not 0 <= asked <= positions[row]:
                raise ProbeError(
                    "outputs.bad-decision",
                    f"document {doc}: the position asked for is not in it",
                    got=str(asked),
                    expected=f"0 to {positions[row]}, its last counted token",
                )
            positions[row] = asked
        rows, tokens = torch.arange(len(positions)), torch.tensor(positions)
        found: list[dict[str, float]] = []
        for chunk in rows.split(self._chunk_tokens):
            before, after = self._logits(batch, chunk, tokens[chunk])
            there = token_divergences(before, after)
            entropy_change = there.entropy_candidate_tok - there.entropy_reference_tok
            named = {"output.decision_js": there.js_tok, "output.decision_entropy_change": entropy_change}
            log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
            for name, ids in self._sets.items():
                mass_p, mass_q = (log[:, ids.to(log.device)].double().logsumexp(-1).cpu() for log in (log_p, log_q))
                named[f"output.mass_shift.{name}"] = mass_q.exp() - mass_p.exp()
                named[f"output.log_mass_shift.{name}"] = mass_q - mass_p
            found += [{name: float(values[i]) for name, values in named.items()} for i in range(len(chunk))]
        return found

    def _logits(self, batch: PairedBatch, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pair = (batch.reference[FINAL], batch.candidate[FINAL])
        reference, candidate = (
            head.logits(hidden[rows.to(hidden.device), tokens.to(hidden.device)])
            for head, hidden in zip(self._heads, pair, strict=True)
        )
        return reference, candidate


@dataclass(frozen=True)
class AmplifiedToken:
    """A token and its probability: amplified, and as each model has it."""

    token_id: int
    amplified: float
    reference: float
    candidate: float


def amplified_tokens(
    reference_vocab: Tensor, candidate_vocab: Tensor, alpha: float, k: int
) -> tuple[AmplifiedToken, ...]:
    """The ``k`` likeliest tokens of softmax(candidate + alpha (candidate - reference)) at one position.

    Raises:
        ProbeError: ``outputs.other-vocabulary``, ``outputs.not-finite``, ``outputs.bad-limit``.
    """
    _check_logits(reference_vocab.unsqueeze(0), candidate_vocab.unsqueeze(0))
    if not (math.isfinite(alpha) and alpha >= 0 and 1 <= k <= len(reference_vocab)):
        raise ProbeError("outputs.bad-limit", "not an amplification", got=f"alpha {alpha}, k {k}")
    before, after = reference_vocab.double(), candidate_vocab.double()
    amplified = (after + alpha * (after - before)).softmax(-1)
    p, q = before.softmax(-1), after.softmax(-1)
    top = amplified.topk(k).indices.tolist()
    return tuple(AmplifiedToken(i, float(amplified[i]), float(p[i]), float(q[i])) for i in top)


def _document_values(fields: Mapping[str, Tensor], has_next: Tensor) -> dict[str, float]:
    js = fields["js_tok"]
    tail = js.topk(math.ceil(TAIL_SHARE * len(js))).values
    before, after = (float(fields[f"entropy_{side}_tok"].mean()) for side in ("reference", "candidate"))
    values = {
        "output.kl_mean": float(fields["kl_tok"].mean()),
        "output.js_mean": float(js.mean()),
        "output.js_max": float(js.max()),
        "output.js_tail": float(tail.mean()),
        "output.entropy_reference": before,
        "output.entropy_candidate": after,
        "output.entropy_change": after - before,
        "output.argmax_agreement": float(fields["same_argmax_tok"].mean()),
    }
    if bool(has_next.any()):
        values["output.next_logprob_change"] = float(fields["logprob_change_tok"][has_next].mean())
    return values


def _read_positions(counted_row_tok: Tensor, per_document: int | None) -> tuple[Tensor, Tensor]:
    """Rows and tokens to read, sorted by row."""
    rows, tokens = counted_row_tok.nonzero(as_tuple=True)
    if per_document is None:
        return rows, tokens
    rank = counted_row_tok.cumsum(dim=1)[rows, tokens] - 1  # the how-manieth counted token of its row
    last_rank = (counted_row_tok.sum(dim=1)[rows] - 1).clamp(min=1)
    # Kept is where floor(rank (k-1) / last rank) takes a new value: k tokens of a longer row, else all of them.
    kept = rank * (per_document - 1) // last_rank != (rank - 1) * (per_document - 1) // last_rank
    return rows[kept], tokens[kept]


def _last_counted(counted_row_tok: Tensor) -> Tensor:
    places = torch.arange(counted_row_tok.shape[1])
    return torch.where(counted_row_tok, places, -1).amax(dim=1)


def _id_set(name: str, ids: Sequence[int], vocab: int) -> Tensor:
    if not ids or len(set(ids)) != len(ids) or not all(0 <= i < vocab for i in ids):
        raise ProbeError(
            "outputs.bad-token-set",
            f"token set {name!r} cannot be followed",
            got=str(list(ids)[:20]),
            expected=f"different ids from 0 to {vocab - 1}, at least one",
        )
    return torch.tensor(list(ids), dtype=torch.long)


def _check_logits(reference: Tensor, candidate: Tensor) -> None:
    if reference.shape != candidate.shape or reference.ndim != 2:
        raise _other_vocabulary(list(candidate.shape), list(reference.shape))
    for side, logits in (("reference", reference), ("candidate", candidate)):
        if not bool(torch.isfinite(logits).all()):
            raise ProbeError("outputs.not-finite", f"the {side}'s logits hold NaN or infinity")


def _other_vocabulary(got: object, expected: object) -> ProbeError:
    return ProbeError(
        "outputs.other-vocabulary",
        "the candidate predicts over another vocabulary than the reference",
        got=str(got),
        expected=str(expected),
        fix="compare a candidate with the checkpoint that it was trained from",
    )


def _unsupported(got: str, expected: str) -> ProbeError:
    return ProbeError("outputs.unsupported-head", "an output head that is not known", got=got, expected=expected)
