"""Feature cards: what a person needs to see to judge what a feature of a dictionary is about.

A card holds the texts on which the feature is strongest (one place a document, the token marked), the share of
tokens on which it is on, the tokens that its decoder row promotes and suppresses when it is read straight through
the last norm and the unembedding (the logit lens: nostalgebraist 2020; Dar et al. 2022, arXiv:2209.02535), and
the nearest feature of another seed's dictionary.

Every text on a card is plain data from a document or a tokenizer, hostile markup included: whoever shows it must
escape it. Memory grows with the number of features and examples, not with the documents.

Not covered: whether the examples are typical (they are the strongest, and weaker ones may look different), and
whether the feature causes anything. The token effects leave out all layers after the dictionary's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from guards.errors import ProbeError
from guards.evidence import Digest, Frozen
from probes.activations import harvest
from probes.dictionaries import Dictionary
from probes.dictionary_quality import nearest_features
from probes.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONTEXT_TOKENS = 12
"""Tokens that an example shows on each side of the marked one."""

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "decoder.final_layer_norm")
"""Where base models keep the norm before the unembedding: Llama, GPT-2, GPT-NeoX, OPT."""

_MAX_TOKENS_AT_ONCE = 1024


class Example(Frozen):
    """One place where the feature is on: ``token`` is the marked one, ``before`` and ``after`` surround it.

    ``value`` is the feature's activation there, in the units of the dictionary's activations.
    """

    doc_id: str
    value: float = Field(gt=0, allow_inf_nan=False)
    before: str
    token: str
    after: str


class TokenEffect(Frozen):
    """What one unit of the feature adds to a token's logit, next to the mean over the vocabulary."""

    token_id: int = Field(ge=0)
    token: str
    effect: float = Field(allow_inf_nan=False)


class NearestFeature(Frozen):
    """The feature of another dictionary whose decoder row is nearest, by cosine."""

    dictionary: str
    feature: int = Field(ge=0)
    cosine: float = Field(ge=-1.001, le=1.001, allow_inf_nan=False)


class FeatureCard(Frozen):
    """One feature of one dictionary. ``density`` is the share of ``n_tokens`` counted tokens on which it is on.

    A feature that was never on has no examples. ``nearest`` is None where no other dictionary was given.
    """

    dictionary: str
    parent_digest: Digest
    layer: int = Field(ge=0)
    feature: int = Field(ge=0)
    n_tokens: int = Field(ge=1)
    density: float = Field(ge=0, le=1, allow_inf_nan=False)
    examples: tuple[Example, ...]
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    nearest: NearestFeature | None


@dataclass(frozen=True, eq=False)
class Strongest:
    """The strongest places of some features: ``[example, feature]``, strongest first; unused places have value 0.

    ``doc_index`` and ``token_index`` say where, ``n_on_feat`` on how many of ``n_tokens`` counted tokens it was on.
    """

    value: Tensor
    doc_index: Tensor
    token_index: Tensor
    n_on_feat: Tensor
    n_tokens: int


@torch.no_grad()
def feature_cards(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dictionary: Dictionary,
    documents: Sequence[Document],
    features: Sequence[int],
    *,
    other: Dictionary | None = None,
    other_alive_feat: Tensor | None = None,
    n_examples: int = 8,
    n_effects: int = 8,
) -> tuple[FeatureCard, ...]:
    """Cards of ``features``, in their order. ``model`` is the dictionary's parent, which the caller has checked.

    ``other`` is another seed's dictionary; with ``other_alive_feat`` only its live features can be the nearest.

    Raises:
        ProbeError: ``cards.unknown-feature`` (also one asked for twice, or none), ``cards.no-examples`` (no place for
            any), ``cards.unknown-architecture``, ``cards.not-finite``; any rule of
            :func:`probes.activations.harvest` and :func:`probes.dictionary_quality.nearest_features`.
    """
    if n_examples < 1 or n_effects < 1:
        raise ProbeError("cards.no-examples", "a card has at least one example and one token", got="none asked for")
    _check_features(features, dictionary)
    strongest = find_strongest(model, dictionary, documents, features, n_examples=n_examples)
    # Effects are centred, so that what lifts every token alike does not look like a meaning.
    effects_feat_vocab = token_effects(model, dictionary, features)
    nearest = None if other is None else nearest_features(dictionary, other, other_alive_feat=other_alive_feat)
    cards: list[FeatureCard] = []
    for column, feature in enumerate(features):
        effects_vocab = effects_feat_vocab[column]
        near = None
        if other is not None and nearest is not None:
            near = NearestFeature(
                dictionary=other.name,
                feature=int(nearest.index_feat[feature]),
                cosine=float(nearest.cosine_feat[feature]),
            )
        cards.append(
            FeatureCard(
                dictionary=dictionary.name,
                parent_digest=dictionary.parent_digest,
                layer=dictionary.layer,
                feature=feature,
                n_tokens=strongest.n_tokens,
                density=float(strongest.n_on_feat[column]) / strongest.n_tokens,
                examples=_examples(tokenizer, documents, strongest, column),
                promoted=_extreme_tokens(tokenizer, effects_vocab, n_effects, largest=True),
                suppressed=_extreme_tokens(tokenizer, effects_vocab, n_effects, largest=False),
                nearest=near,
            )
        )
    return tuple(cards)


@torch.no_grad()
def find_strongest(
    model: PreTrainedModel,
    dictionary: Dictionary,
    documents: Sequence[Document],
    features: Sequence[int],
    *,
    n_examples: int,
) -> Strongest:
    """The ``n_examples`` strongest documents of each feature, streamed; each document counts with its strongest token.

    Among equal values those of the earlier document come first.

    Raises:
        ProbeError: ``cards.unknown-feature``, ``cards.not-finite``; any rule of :func:`probes.activations.harvest`.
    """
    _check_features(features, dictionary)
    chosen = torch.tensor(list(features))
    narrowed = _only_features(dictionary, chosen)
    shape = (n_examples, len(chosen))
    value = torch.zeros(shape)
    doc_index = torch.full(shape, len(documents))
    token_index = torch.zeros(shape, dtype=torch.int64)
    n_on_feat = torch.zeros(len(chosen), dtype=torch.int64)
    n_tokens = 0
    for batch in harvest(model, documents, [dictionary.layer]):
        for row, index in enumerate(batch.doc_indices):
            places = batch.counted_row_tok[row].nonzero().flatten().cpu()
            acts_tok_dim = batch.acts_layer_row_tok_feat[dictionary.layer][row].cpu()[places]
            best_value, best_place, n_on = _strongest_in(narrowed, acts_tok_dim)
            n_on_feat += n_on
            n_tokens += len(places)
            # One row more than is kept, then sorted by (value, earlier document): the order of batches shows nowhere.
            values = torch.cat([value, best_value[None]])
            docs = torch.cat([doc_index, torch.full((1, len(chosen)), index)])
            tokens = torch.cat([token_index, places[best_place][None]])
            by_doc = docs.argsort(dim=0, stable=True)
            by_value = values.gather(0, by_doc).argsort(dim=0, descending=True, stable=True)
            order = by_doc.gather(0, by_value)[:n_examples]
            value, doc_index, token_index = (kept.gather(0, order) for kept in (values, docs, tokens))
    return Strongest(value, doc_index, token_index, n_on_feat, n_tokens)


@torch.no_grad()
def token_effects(model: PreTrainedModel, dictionary: Dictionary, features: Sequence[int]) -> Tensor:
    """``[feature, vocabulary]``, float32: decoder rows times the last norm's gain times the unembedding, centred.

    The norm's division by the size of the residual stream is left out, so that effects compare between tokens, not
    between features of different strength.

    Raises:
        ProbeError: ``cards.unknown-feature``, ``cards.unknown-architecture``.
    """
    _check_features(features, dictionary)
    head: Any = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None or head.weight.shape[1] != dictionary.d_in:
        raise _unknown_architecture(model, "an output embedding of the dictionary's width")
    rows_feat_dim = dictionary.w_dec_feat_dim[list(features)].float().cpu() * _final_norm_gain(model).cpu()
    effects_feat_vocab = rows_feat_dim @ head.weight.float().cpu().T
    return effects_feat_vocab - effects_feat_vocab.mean(dim=1, keepdim=True)


def _final_norm_gain(model: PreTrainedModel) -> Tensor:
    """``[dim]``: what the last norm multiplies each coordinate with, after it has divided by the size."""
    for path in _FINAL_NORMS:
        norm: Any = model.base_model
        for name in path.split("."):
            norm = getattr(norm, name, None)
        if isinstance(norm, nn.LayerNorm):
            return norm.weight.float()
        weight: Any = getattr(norm, "weight", None)
        if isinstance(norm, nn.Module) and weight is not None:
            # Ones have root mean square 1, so this is the gain however the norm stores it (Gemma keeps it minus 1).
            return norm(torch.ones_like(weight)).float()
    raise _unknown_architecture(model, f"a last norm at one of {', '.join(_FINAL_NORMS)} of the base model")


def _strongest_in(dictionary: Dictionary, acts_tok_dim: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per feature of one document: largest value, a token that has it, and on how many tokens it is on."""
    best_value = torch.zeros(dictionary.d_sae)
    best_token = torch.zeros(dictionary.d_sae, dtype=torch.int64)
    n_on = torch.zeros(dictionary.d_sae, dtype=torch.int64)
    for begin in range(0, len(acts_tok_dim), _MAX_TOKENS_AT_ONCE):
        features_tok_feat = dictionary.encode(acts_tok_dim[begin : begin + _MAX_TOKENS_AT_ONCE])
        if not bool(torch.isfinite(features_tok_feat).all()):
            raise ProbeError("cards.not-finite", f"features of {dictionary.name!r} are NaN or infinite on a document")
        n_on += (features_tok_feat > 0).sum(dim=0)
        value, token = features_tok_feat.max(dim=0)
        better = value > best_value
        best_value, best_token = torch.where(better, value, best_value), torch.where(better, token + begin, best_token)
    return best_value, best_token, n_on


def _only_features(dictionary: Dictionary, chosen: Tensor) -> Dictionary:
    """The dictionary without its other features, on the CPU, in float32."""
    whole = dictionary.to("cpu")
    return Dictionary(
        name=whole.name,
        kind=whole.kind,
        parent_digest=whole.parent_digest,
        layer=whole.layer,
        seed=whole.seed,
        scale=whole.scale,
        summary=whole.summary,
        w_enc_dim_feat=whole.w_enc_dim_feat[:, chosen],
        b_enc_feat=whole.b_enc_feat[chosen],
        w_dec_feat_dim=whole.w_dec_feat_dim[chosen],
        b_dec_dim=whole.b_dec_dim,
        threshold_feat=whole.threshold_feat[chosen],
    )


def _examples(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document], strongest: Strongest, column: int
) -> tuple[Example, ...]:
    examples: list[Example] = []
    for rank in range(len(strongest.value)):
        value = float(strongest.value[rank, column])
        if value <= 0.0:
            break
        document = documents[int(strongest.doc_index[rank, column])]
        place = int(strongest.token_index[rank, column])
        ids = document.token_ids
        examples.append(
            Example(
                doc_id=document.doc_id,
                value=value,
                before=_text_of(tokenizer, ids[max(0, place - CONTEXT_TOKENS) : place]),
                token=_text_of(tokenizer, ids[place : place + 1]),
                after=_text_of(tokenizer, ids[place + 1 : place + 1 + CONTEXT_TOKENS]),
            )
        )
    return tuple(examples)


def _extreme_tokens(
    tokenizer: PreTrainedTokenizerBase, effects_vocab: Tensor, n_effects: int, *, largest: bool
) -> tuple[TokenEffect, ...]:
    # Ids beyond the tokenizer's are padding of the embedding: no text stands for them.
    known_vocab = effects_vocab[: len(tokenizer)]
    order = known_vocab.argsort(descending=largest, stable=True)[:n_effects].tolist()
    return tuple(
        TokenEffect(token_id=token_id, token=_text_of(tokenizer, [token_id]), effect=float(known_vocab[token_id]))
        for token_id in order
    )


def _text_of(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Half characters come out as U+FFFD."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _check_features(features: Sequence[int], dictionary: Dictionary) -> None:
    if not features or len(set(features)) != len(features) or not all(0 <= one < dictionary.d_sae for one in features):
        raise ProbeError(
            "cards.unknown-feature",
            f"not features of the dictionary {dictionary.name!r}",
            got=str(list(features)[:10]),
            expected=f"some of 0 to {dictionary.d_sae - 1}, each once",
        )


def _unknown_architecture(model: PreTrainedModel, expected: str) -> ProbeError:
    return ProbeError(
        "cards.unknown-architecture",
        "a feature's effect on tokens cannot be read from this model",
        got=type(model).__name__,
        expected=expected,
    )
