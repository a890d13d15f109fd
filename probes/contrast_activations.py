"""What a model's activations are on contrast pairs: one vector per text and layer.

A reply is read as the mean over its tokens, after the chat-formatted prompt. A prompt without a reply is read at
the last token of the chat, where the model is about to answer.

Not covered: a reply so long that its contrast drowns in the mean. Nothing is cut: a pair that does not fit into
the model's context is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from guards.errors import ProbeError
from probes.activations import harvest
from probes.contrast_prompts import ContrastPair
from probes.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def read_contrasts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[ContrastPair],
    layers: Sequence[int],
) -> dict[int, torch.Tensor]:
    """Pooled activations of each layer, ``[pair, side, dim]``, float32, the positive side first.

    Raises:
        ProbeError: any rule of :func:`contrast_documents` and :func:`probes.activations.harvest`.
    """
    documents = contrast_documents(tokenizer, pairs)
    pooled: dict[int, torch.Tensor] = {}
    for batch in harvest(model, documents, layers):
        counted_row_tok = batch.counted_row_tok[..., None]
        n_counted_row = counted_row_tok.sum(dim=1)
        for layer, acts_row_tok_feat in batch.acts_layer_row_tok_feat.items():
            # What stands on padding means nothing and may be infinite: set to zero, not multiplied by it.
            kept = acts_row_tok_feat.float().masked_fill(~counted_row_tok, 0.0)
            mean_row_feat = (kept.sum(dim=1) / n_counted_row).cpu()
            if layer not in pooled:
                pooled[layer] = torch.full((len(documents), mean_row_feat.shape[1]), torch.nan)
            pooled[layer][list(batch.doc_indices)] = mean_row_feat
    return {layer: by_document.reshape(len(pairs), 2, -1) for layer, by_document in pooled.items()}


def contrast_documents(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[ContrastPair]) -> list[Document]:
    """Two documents a pair, the positive one first; what counts in them is what is read.

    Raises:
        ProbeError: ``contrasts.no-chat-template``, ``contrasts.special-token`` (a text that spells a control token
            of the tokenizer would end its own turn), ``contrasts.empty-reply`` (a reply of no tokens).
    """
    if not tokenizer.chat_template:
        raise ProbeError(
            "contrasts.no-chat-template",
            "the tokenizer has no chat template, and contrast pairs are chats",
            fix="put the template that the model was trained with beside its tokenizer",
        )
    documents: list[Document] = []
    for pair in pairs:
        for text in pair.texts:
            _refuse_special_tokens(tokenizer, text, pair.id)
        for side, text in (("positive", pair.positive), ("negative", pair.negative)):
            documents.append(_document(tokenizer, pair, side, text))
    return documents


def _document(tokenizer: Any, pair: ContrastPair, side: str, text: str) -> Document:
    chat = [{"role": "user", "content": text if pair.prompt is None else pair.prompt}]
    head = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    token_ids = list(tokenizer(head, add_special_tokens=False)["input_ids"])
    first_counted = len(token_ids) - 1
    if pair.prompt is not None:
        first_counted = len(token_ids)
        token_ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(token_ids) == first_counted:
            raise ProbeError("contrasts.empty-reply", f"the {side} reply of {pair.id} has no tokens")
    return Document(f"{pair.id}/{side}", pair.split, tuple(token_ids), first_counted)


def _refuse_special_tokens(tokenizer: Any, text: str, pair_id: str) -> None:
    special = set(tokenizer(text, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)
    if special:
        raise ProbeError(
            "contrasts.special-token",
            f"a text of {pair_id} spells a control token of this tokenizer",
            got=repr(tokenizer.decode([min(special)])),
            expected="text only",
        )
