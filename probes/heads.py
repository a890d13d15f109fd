"""What single attention heads write, through TransformerLens' ``TransformerBridge``.

The bridge rewrites the model that it is given in place (its state-dict keys change), so it gets a copy: reading
heads takes the memory of a second model. Attention is computed by the bridge itself, not by the fused kernel of the
plain model, which differs in the last digits. Where whole layers are enough, :mod:`probes.activations` is cheaper.

Not covered: architectures that TransformerLens has no adapter for, and attention patterns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guards.errors import ProbeError
from probes.activations import MAX_ROWS, MAX_TOKENS
from probes.documents import Document, TokenBatch, plan_batches
from probes.layer_reader import FINAL, LayerReader, refuse_not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class HeadBatch:
    """Some documents, one a row. ``doc_indices`` are their places among the documents that were given.

    ``heads_layer_row_tok_head_feat`` maps a layer to each head's output before the output projection (``hook_z``:
    its values, weighted by its attention), ``[row, token, head, feature]``. Only where ``counted_row_tok`` is True
    does it mean anything.
    """

    doc_indices: tuple[int, ...]
    counted_row_tok: Tensor
    heads_layer_row_tok_head_feat: dict[int, Tensor]


def harvest_heads(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    layers: Sequence[int],
    *,
    max_rows: int = MAX_ROWS,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[HeadBatch]:
    """Every head's output at ``layers``, in the model's dtype; the pass ends after the last of them.

    ``model`` and ``tokenizer`` stay as they are. Batches come by length, not in the documents' order.

    Raises:
        ProbeError: ``heads.no-transformer-lens``, ``heads.unknown-architecture``, ``heads.no-final``; and as
            :func:`probes.activations.harvest`.
    """
    reader = LayerReader(model, layers)
    if FINAL in reader.layers:
        raise ProbeError("heads.no-final", "the last hidden state has no heads", expected="numbers of layers")
    bridge = _bridge(model, tokenizer)
    batches = plan_batches(documents, reader.limits(max_rows, max_tokens), reader.device)
    return (_read(bridge, batch, reader.layers) for batch in batches)


def _read(bridge: Any, batch: TokenBatch, layers: tuple[int, ...]) -> HeadBatch:
    hook_by_layer = {layer: f"blocks.{layer}.attn.hook_z" for layer in layers}
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(
            batch.token_ids_row_tok,
            attention_mask=batch.present_row_tok.long(),
            names_filter=list(hook_by_layer.values()),
            stop_at_layer=max(layers) + 1,
            return_cache_object=False,
        )
        heads: dict[int, Tensor] = {}
        for layer, hook in hook_by_layer.items():
            if hook not in cache or cache[hook].ndim != 4:
                raise _unknown_architecture(bridge.cfg.architecture, f"no output per head at {hook}")
            heads[layer] = cache[hook]
            refuse_not_finite(heads[layer].flatten(start_dim=2), batch, "model", f"the heads of layer {layer}")
    return HeadBatch(batch.doc_indices, batch.counted_row_tok, heads)


def _bridge(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise ProbeError(
            "heads.no-transformer-lens",
            "reading heads needs TransformerLens, which is not installed",
            got=str(error),
            fix="pip install 'stairlock[probes]'",
        ) from error
    # The bridge would load the tokenizer again by its name, to have BOS added to texts, and might ask a hub for it.
    # Documents are token ids already, so a copy is marked as one that adds BOS: that one is taken as it is.
    marked = copy.deepcopy(tokenizer)
    marked.init_kwargs.update(add_bos_token=True, name_or_path="")
    try:
        return TransformerBridge.boot_transformers(
            "", hf_model=copy.deepcopy(model), tokenizer=marked, dtype=model.dtype, device=str(model.device)
        )
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
        raise _unknown_architecture(type(model).__name__, f"{type(error).__name__}: {error}"[:300]) from error


def _unknown_architecture(architecture: str, why: str) -> ProbeError:
    return ProbeError(
        "heads.unknown-architecture",
        f"TransformerLens cannot show the heads of {architecture}",
        got=why,
        expected="an architecture that TransformerBridge has an adapter for",
        fix="use probes.activations, which needs whole layers only",
    )
