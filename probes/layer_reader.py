"""Reads the outputs of a few decoder layers of one causal language model, batch by batch, by forward hooks.

Hooks are there during one forward pass only: between two batches the model is as it was, whatever becomes of the
reader. The pass ends after the last layer that is asked for, and never reaches the language-model head.

Not covered: models that are split over several devices, compiled models, encoder-decoder models, and models whose
layers change their input in place after their output was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guards.errors import ProbeError
from probes.documents import BatchLimits, TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FINAL = -1
"""The pseudo-layer of the base model's last hidden state: after the last layer and the last norm."""

_LAYER_LISTS = ("layers", "h", "decoder.layers")
"""Where base models keep their decoder layers: Llama and GPT-NeoX, GPT-2, OPT."""


class _LastLayerRead(Exception):
    """No error: it leaves a forward pass that has done its work."""


class LayerReader:
    """``layers`` of one model; layer l is the residual stream after decoder layer l, counted from 0.

    ``role`` names the model in refusals.

    Raises:
        ProbeError: ``activations.unknown-architecture``, ``activations.training-mode``, ``activations.no-layers``,
            ``activations.unknown-layer``.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], *, role: str = "model") -> None:
        self.role = role
        self.layers = tuple(dict.fromkeys(layers))
        self._base: Any = model.base_model
        self._blocks = _decoder_layers(model, role)
        if any(module.training for module in model.modules()):
            raise ProbeError(
                "activations.training-mode",
                f"the {role} is in training mode, where dropout makes every pass another one",
                fix="call model.eval() first",
            )
        _check_layers(self.layers, len(self._blocks), role)
        text_config: Any = model.config.get_text_config()
        self.architecture = str(text_config.model_type)
        self.n_layers = len(self._blocks)
        self.width = int(text_config.hidden_size)
        embeddings: Any = model.get_input_embeddings()
        self.n_vocabulary = int(embeddings.weight.shape[0])
        self.context_tokens: int | None = getattr(text_config, "max_position_embeddings", None)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def limits(self, max_rows: int, max_tokens: int) -> BatchLimits:
        """The limits of a batch plan for this model."""
        return BatchLimits(max_rows, max_tokens, self.n_vocabulary, self.context_tokens)

    def read(self, batch: TokenBatch) -> dict[int, Tensor]:
        """Activations of each layer, ``[row, token, feature]`` in the model's own dtype and on its device.

        Values on padding mean nothing. They are inference tensors: what is computed from them outside is ordinary,
        but they themselves cannot enter a graph that is differentiated.

        Raises:
            ProbeError: ``activations.not-finite``: NaN or infinity at a token that is no padding.
        """
        with torch.inference_mode():
            acts_layer_row_tok_feat = self._forward(batch)
            for layer, acts_row_tok_feat in acts_layer_row_tok_feat.items():
                place = "the last hidden state" if layer == FINAL else f"layer {layer}"
                refuse_not_finite(acts_row_tok_feat, batch, self.role, place)
        return acts_layer_row_tok_feat

    def _forward(self, batch: TokenBatch) -> dict[int, Tensor]:
        read: dict[int, Tensor] = {}
        runs_to_the_end = FINAL in self.layers
        last = max(self.layers)

        def keep(layer: int, output: Any) -> None:
            read[layer] = output[0] if isinstance(output, tuple) else output
            if layer == last and not runs_to_the_end:
                raise _LastLayerRead

        with ExitStack() as hooks:
            for layer in self.layers:
                if layer != FINAL:
                    handle = self._blocks[layer].register_forward_hook(
                        lambda _module, _inputs, output, layer=layer: keep(layer, output)
                    )
                    hooks.callback(handle.remove)
            try:
                output = self._base(
                    input_ids=batch.token_ids_row_tok,
                    attention_mask=batch.present_row_tok.long(),
                    use_cache=False,
                )
            except _LastLayerRead:
                pass
            else:
                if runs_to_the_end:
                    read[FINAL] = output[0]
        return {layer: read[layer] for layer in self.layers}


def refuse_not_finite(acts_row_tok_feat: Tensor, batch: TokenBatch, role: str, place: str) -> None:
    """Refuse NaN and infinity at any token that is no padding; context included, for it reaches the other tokens.

    Raises:
        ProbeError: ``activations.not-finite``.
    """
    broken_row = (~torch.isfinite(acts_row_tok_feat).all(dim=-1) & batch.present_row_tok).any(dim=-1)
    if not bool(broken_row.any()):
        return
    raise ProbeError(
        "activations.not-finite",
        f"the {role} has NaN or infinite activations",
        got=f"at {place}, document {batch.doc_ids[int(broken_row.nonzero()[0])]!r}",
        expected="finite numbers",
        fix="a model that does this is broken, or its dtype is too narrow for it: do not compare it",
    )


def _decoder_layers(model: PreTrainedModel, role: str) -> nn.ModuleList:
    config: Any = model.config.get_text_config()
    n_layers = getattr(config, "num_hidden_layers", None)
    if not model.config.is_encoder_decoder:
        for path in _LAYER_LISTS:
            found: Any = model.base_model
            for name in path.split("."):
                found = getattr(found, name, None)
            if isinstance(found, nn.ModuleList) and len(found) == n_layers:
                return found
    raise ProbeError(
        "activations.unknown-architecture",
        f"the {role}'s decoder layers were not found",
        got=f"{type(model).__name__}, {n_layers} layers by its config",
        expected=f"a causal language model whose base_model has all its layers in {', '.join(_LAYER_LISTS)}",
        fix="merge an adapter first; another architecture needs its place in probes/layer_reader.py",
    )


def _check_layers(layers: tuple[int, ...], n_layers: int, role: str) -> None:
    if not layers:
        raise ProbeError("activations.no-layers", "no layer was asked for", expected="at least one layer, or FINAL")
    unknown = [layer for layer in layers if layer != FINAL and not 0 <= layer < n_layers]
    if unknown:
        raise ProbeError(
            "activations.unknown-layer",
            f"the {role} has no such layer",
            got=", ".join(map(str, unknown)),
            expected=f"0 to {n_layers - 1}, or {FINAL} for the last hidden state",
        )
