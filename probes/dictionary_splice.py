"""Loss recovered: how much of what a layer knows survives the way through a dictionary.

The layer's output is replaced by its reconstruction, at the counted tokens, and the model goes on from there. With
the cross-entropies of the untouched model (0), of the spliced one (s) and of one whose counted tokens are all
replaced by their mean (m), the share recovered is (m - s) / (m - 0). Mean ablation is the harder reference: zero
ablation makes every dictionary look good.

Not covered: a share near 1 does not say that rare behaviour survives; it is an average over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from guards.errors import ProbeError
from guards.evidence import Frozen
from probes.dictionaries import Dictionary
from probes.documents import Document, TokenBatch, plan_batches
from probes.layer_reader import LayerReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_TOKENS = 1024  # logits of a batch are held whole: 200 MB at 49,152 ids


class LossRecovered(Frozen):
    """Cross-entropies in nats per token, over the same ``n_targets`` next tokens; ``share`` as in the module."""

    n_documents: int = Field(ge=1)
    n_targets: int = Field(ge=1)
    loss_original: float = Field(allow_inf_nan=False)
    loss_spliced: float = Field(allow_inf_nan=False)
    loss_ablated: float = Field(allow_inf_nan=False)

    @property
    def share(self) -> float:
        return (self.loss_ablated - self.loss_spliced) / (self.loss_ablated - self.loss_original)


@torch.no_grad()
def loss_recovered(
    model: PreTrainedModel,
    documents: Sequence[Document],
    dictionary: Dictionary,
    *,
    norm_cap: float | None,
    max_rows: int = 8,
    max_tokens: int = MAX_TOKENS,
) -> LossRecovered:
    """Splice ``dictionary`` into its layer of ``model``, on ``documents``; the model is left as it was.

    Tokens that do not count, or whose norm exceeds ``norm_cap`` (None: no cap), stay as they are: the dictionary was
    not made for them. The loss is that of the token after each token that was replaced.

    Raises:
        ProbeError: ``dictionary.other-kind`` (one of differences), ``dictionary.other-width``,
            ``dictionary.nothing-measured`` (no token counts, or none has a next one), ``dictionary.layer-unused``
            (ablation does not hurt, so there is nothing to recover); the rules of LayerReader and plan_batches.
    """
    if dictionary.kind != "activations":
        raise ProbeError("dictionary.other-kind", "only a dictionary of activations can replace activations")
    reader = LayerReader(model, [dictionary.layer])
    if reader.width != dictionary.d_in:
        raise ProbeError(
            "dictionary.other-width", "the model's width", got=str(reader.width), expected=str(dictionary.d_in)
        )
    batches = list(plan_batches(documents, reader.limits(max_rows, max_tokens), reader.device))
    counted = [_counted(reader.read(batch)[dictionary.layer], batch, norm_cap) for batch in batches]
    mean_dim = _mean(reader, dictionary.layer, batches, counted)

    def reconstruct(acts_tok_dim: Tensor) -> Tensor:
        return dictionary.decode(dictionary.encode(acts_tok_dim))

    def ablate(acts_tok_dim: Tensor) -> Tensor:
        return mean_dim.expand(acts_tok_dim.shape[0], -1)

    block = _block(model, reader.n_layers, dictionary.layer)
    sums = {"original": 0.0, "spliced": 0.0, "ablated": 0.0}
    replacements = {"original": None, "spliced": reconstruct, "ablated": ablate}
    n_targets = 0
    for batch, counted_row_tok in zip(batches, counted, strict=True):
        n_targets += int(_targets(batch, counted_row_tok).sum())
        for which, replacement in replacements.items():
            sums[which] += _loss(model, block, batch, counted_row_tok, replacement)
    if n_targets == 0:
        raise ProbeError("dictionary.nothing-measured", "no counted token has a next one")
    losses = {which: total / n_targets for which, total in sums.items()}
    if not losses["ablated"] > losses["original"]:
        raise ProbeError(
            "dictionary.layer-unused",
            "replacing the layer's output by its mean does not raise the loss, so nothing can be recovered",
            got=f"{losses['original']:.4f} nats before, {losses['ablated']:.4f} after",
            fix="use documents of the kind that the model was trained on",
        )
    return LossRecovered(
        n_documents=len(documents),
        n_targets=n_targets,
        loss_original=losses["original"],
        loss_spliced=losses["spliced"],
        loss_ablated=losses["ablated"],
    )


def _counted(acts_row_tok_dim: Tensor, batch: TokenBatch, norm_cap: float | None) -> Tensor:
    if norm_cap is None:
        return batch.counted_row_tok
    norms = torch.linalg.vector_norm(acts_row_tok_dim, dim=-1, dtype=torch.float32)
    return batch.counted_row_tok & (norms <= norm_cap)


def _mean(reader: LayerReader, layer: int, batches: Sequence[TokenBatch], counted: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(reader.width, dtype=torch.float64, device=reader.device)
    n_tokens = 0
    for batch, counted_row_tok in zip(batches, counted, strict=True):
        total += reader.read(batch)[layer][counted_row_tok].double().sum(dim=0)
        n_tokens += int(counted_row_tok.sum())
    if n_tokens == 0:
        raise ProbeError("dictionary.nothing-measured", "no token counts")
    return (total / n_tokens).float()


def _targets(batch: TokenBatch, counted_row_tok: Tensor) -> Tensor:
    """Where the next token's loss counts, ``[row, token - 1]``."""
    return counted_row_tok[:, :-1] & batch.present_row_tok[:, 1:]


def _loss(
    model: PreTrainedModel,
    block: nn.Module,
    batch: TokenBatch,
    counted_row_tok: Tensor,
    replacement: Callable[[Tensor], Tensor] | None,
) -> float:
    """Summed cross-entropy, in nats, of the next tokens of the counted ones."""

    def splice(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        acts = output[0] if isinstance(output, tuple) else output
        if replacement is None:
            return output
        spliced = acts.clone()
        spliced[counted_row_tok] = replacement(acts[counted_row_tok]).to(acts.dtype)
        return (spliced, *output[1:]) if isinstance(output, tuple) else spliced

    handle = block.register_forward_hook(splice)
    try:
        logits = model(
            input_ids=batch.token_ids_row_tok, attention_mask=batch.present_row_tok.long(), use_cache=False
        ).logits
    finally:
        handle.remove()
    targets = _targets(batch, counted_row_tok)
    return float(
        nn.functional.cross_entropy(
            logits[:, :-1][targets].float(), batch.token_ids_row_tok[:, 1:][targets], reduction="sum"
        )
    )


def _block(model: PreTrainedModel, n_layers: int, layer: int) -> nn.Module:
    """Decoder layer ``layer`` of a model that LayerReader knows."""
    lists = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    return lists[0][layer]
