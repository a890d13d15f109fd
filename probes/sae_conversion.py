"""From a sae-lens autoencoder to a :class:`~probes.dictionaries.Dictionary`, where that is exact, else a refusal.

=================  ==========================================================================================
architecture       conversion
=================  ==========================================================================================
jumprelu           exact (Gemma Scope, Gemma Scope 2, and what BatchTopK training exports)
standard (ReLU)    exact: a threshold of zero
gated              exact: with encoder weights shared up to a positive factor, the gate is a threshold on the
                   magnitude (Rajamanoharan et al. 2024, arXiv:2404.16014, section 3.2)
topk, abstopk      refused: whether a feature is on depends on the others
transcoders        refused: they do not reconstruct their input
temporal,          refused: a feature depends on other tokens, or on an iteration
matching_pursuit
=================  ==========================================================================================

Normalisation of each token by itself (``layer_norm``, ``constant_norm_rescale``), normalisation that is not
folded into the weights, and head-wise reshaping (``hook_z``) are refused. Every conversion is then compared
with the original on random activations.

Not covered: whether the autoencoder was trained on the checkpoint that the caller names as parent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from guards.errors import ProbeError
from probes.dictionaries import Dictionary, Kind

if TYPE_CHECKING:
    from sae_lens import SAE

_EXACT = ("jumprelu", "standard", "gated")
_N_CHECK_TOKENS = 64
_RELATIVE_TOLERANCE = 1e-3
# The residual stream after block l, in the spellings of transformer-lens, its bridge and transformers.
_AFTER_BLOCK = re.compile(r"blocks\.(\d+)\.(?:hook_resid_post|hook_out)|model\.layers\.(\d+)(?:\.output)?")
_BEFORE_BLOCK = re.compile(r"blocks\.(\d+)\.hook_resid_pre")


def require_sae_lens() -> Any:
    """The sae_lens module; takes seconds the first time.

    Raises:
        ProbeError: ``dictionary.no-sae-lens``.
    """
    try:
        import sae_lens
    except ImportError as error:
        raise ProbeError(
            "dictionary.no-sae-lens",
            "training and loading of other people's dictionaries need sae-lens, which cannot be imported",
            got=str(error)[:300],
            fix="pip install 'stairlock[probes]'; an audit with dictionaries at hand works without it",
        ) from error
    return sae_lens


def convert_sae(
    sae: SAE[Any],
    *,
    name: str,
    parent_digest: str,
    layer: int | None,
    seed: int = 0,
    scale: float = 1.0,
    kind: Kind = "activations",
    summary: Mapping[str, str | int | float | bool | None] | None = None,
) -> Dictionary:
    """The dictionary that gives the same features and reconstructions as an inference SAE of sae-lens.

    ``layer`` None takes it from the SAE's hook name. Features keep their order; their values change by the
    norm of their decoder row, which becomes 1.

    Raises:
        ProbeError: ``dictionary.not-convertible``, ``dictionary.other-hook`` (no hook name to read a layer from,
            or one that is not the residual stream after a block), ``dictionary.other-layer``,
            ``dictionary.zero-decoder-row``, ``dictionary.conversion-differs``; any rule of Dictionary.
    """
    config = sae.cfg
    architecture = config.architecture()
    if architecture not in _EXACT:
        raise _not_convertible(f"architecture {architecture}", f"one of {', '.join(_EXACT)}")
    if config.normalize_activations != "none":
        raise _not_convertible(f"normalize_activations {config.normalize_activations}", "none, or folded into weights")
    if config.reshape_activations != "none":
        raise _not_convertible(f"reshape_activations {config.reshape_activations}", "none")
    layer = _layer_of(config.metadata.hook_name, layer)
    state = {key: tensor.detach().to("cpu", torch.float64) for key, tensor in sae.state_dict().items()}
    w_enc, b_enc, threshold = _jumprelu_encoder(architecture, state)
    w_dec, b_dec = state["W_dec"], state["b_dec"]
    if not config.apply_b_dec_to_input:
        b_enc = b_enc + b_dec @ w_enc  # a Dictionary always subtracts b_dec first
    norms = w_dec.norm(dim=1)
    if bool((norms == 0).any()):
        raise ProbeError(
            "dictionary.zero-decoder-row",
            f"{int((norms == 0).sum())} features have no decoder direction",
            expected="a direction for every feature",
        )
    dictionary = Dictionary(
        name=name,
        kind=kind,
        parent_digest=parent_digest,
        layer=layer,
        seed=seed,
        scale=scale,
        summary=dict(summary or {}),
        w_enc_dim_feat=(w_enc * norms).float(),
        b_enc_feat=(b_enc * norms).float(),
        w_dec_feat_dim=(w_dec / norms[:, None]).float(),
        b_dec_dim=b_dec.float(),
        threshold_feat=(threshold * norms).clamp(min=0).float(),
    )
    _check_same(sae, dictionary, norms.float())
    return dictionary


def _jumprelu_encoder(
    architecture: str, state: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encoder weights [dim, feat], bias [feat] and threshold [feat], before decoder norms are folded in."""
    w_enc = state["W_enc"]
    if architecture == "jumprelu":
        # Below zero a threshold does nothing, because of the ReLU.
        return w_enc, state["b_enc"], state["threshold"].clamp(min=0)
    if architecture == "standard":
        return w_enc, state["b_enc"], torch.zeros_like(state["b_enc"])
    # gate: c @ w + b_gate > 0; magnitude: m = c @ (w * g) + b_mag with g = exp(r_mag) > 0.
    # So the gate is open where m > b_mag - g * b_gate.
    gain = state["r_mag"].exp()
    return w_enc * gain, state["b_mag"], (state["b_mag"] - gain * state["b_gate"]).clamp(min=0)


def _layer_of(hook_name: str | None, layer: int | None) -> int:
    if hook_name is None:
        if layer is None:
            raise ProbeError(
                "dictionary.other-hook",
                "the autoencoder does not say which layer it belongs to",
                fix="name the layer whose output it was trained on",
            )
        return layer
    after, before = _AFTER_BLOCK.fullmatch(hook_name), _BEFORE_BLOCK.fullmatch(hook_name)
    if after is not None:
        named = int(after.group(1) or after.group(2))
    elif before is not None and int(before.group(1)) > 0:
        named = int(before.group(1)) - 1
    else:
        raise ProbeError(
            "dictionary.other-hook",
            "the autoencoder was trained at another place than the residual stream after a block",
            got=hook_name,
            expected="blocks.N.hook_resid_post, or a spelling of the same",
        )
    if layer is not None and layer != named:
        raise ProbeError("dictionary.other-layer", f"hook {hook_name}", got=str(named), expected=str(layer))
    return named


@torch.no_grad()
def _check_same(sae: SAE[Any], dictionary: Dictionary, norms_feat: torch.Tensor) -> None:
    noise = torch.randn((_N_CHECK_TOKENS, dictionary.d_in), generator=torch.Generator().manual_seed(0))
    spread = dictionary.b_dec_dim.abs().mean() + dictionary.threshold_feat.mean() + 1
    # Half of the tokens lie along single features, so that something fires.
    acts = dictionary.b_dec_dim + spread * noise
    along = torch.arange(_N_CHECK_TOKENS // 2) * dictionary.d_sae // (_N_CHECK_TOKENS // 2)
    acts[: len(along)] += 4 * spread * dictionary.w_dec_feat_dim[along]
    device_acts = acts.to(sae.W_enc.device, sae.W_enc.dtype)
    features = sae.encode(device_acts)
    pairs = {
        "features": ((features.float().cpu() * norms_feat), dictionary.encode(device_acts.float().cpu())),
        "reconstructions": (sae.decode(features).float().cpu(), dictionary.decode(features.float().cpu() * norms_feat)),
    }
    for what, (theirs, ours) in pairs.items():
        difference = float((theirs - ours).norm() / theirs.norm().clamp(min=1e-30))
        if not difference <= _RELATIVE_TOLERANCE:
            raise ProbeError(
                "dictionary.conversion-differs",
                f"the converted dictionary gives other {what} than the autoencoder",
                got=f"relative difference {difference:.3g}",
                expected=f"at most {_RELATIVE_TOLERANCE:g}",
                fix="load the autoencoder in float32; if it is, its architecture does more than its name says",
            )


def _not_convertible(got: str, expected: str) -> ProbeError:
    return ProbeError(
        "dictionary.not-convertible",
        "this autoencoder cannot be written as a JumpReLU dictionary exactly",
        got=got,
        expected=expected,
        fix="use another release, or train a dictionary",
    )
