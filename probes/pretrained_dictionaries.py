"""Dictionaries that others trained: a release on the Hugging Face hub, or a directory that sae-lens saved.

Which architectures can be used, and why the others cannot, stands in probes.sae_conversion.

Some releases hold pickles, which can run code when they are opened; they are refused here whatever sae-lens
would do with them.

Not covered: a release is fetched and believed as it is; write down the digest of what you saved from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guards.errors import ProbeError
from probes.dictionaries import Dictionary
from probes.sae_conversion import convert_sae, require_sae_lens
from probes.tensor_file import read_tensor_file

# sae-lens loaders that read safetensors, or .npz without pickle. The others call torch.load.
_LOADERS_WITHOUT_PICKLE = frozenset(
    {"sae_lens", "gemma_2", "gemma_3", "llama_scope", "llama_scope_r1_distill", "sparsify"}
)
_SAVED_FILES = frozenset({"cfg.json", "sae_weights.safetensors"})
# What sae-lens raises on a release or directory that is not there, or not what it says.
_LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError)


def dictionary_from_release(
    release: str, sae_id: str, *, name: str, parent_digest: str, layer: int | None = None
) -> Dictionary:
    """``SAE.from_pretrained(release, sae_id)`` as a dictionary. Needs the network, or a filled Hugging Face cache.

    Example: ``dictionary_from_release("gemma-scope-2-270m-it-res", "layer_12_width_16k_l0_medium", ...)``.
    ``parent_digest`` is the digest of the checkpoint that the release was trained on, which the caller knows.

    Raises:
        ProbeError: ``dictionary.no-sae-lens``, ``dictionary.pickled-release``, ``dictionary.load-failed``;
            any rule of :func:`probes.sae_conversion.convert_sae`.
    """
    sae_lens = require_sae_lens()
    try:
        loader = _loader_of(release)
        if loader not in _LOADERS_WITHOUT_PICKLE:
            raise ProbeError(
                "dictionary.pickled-release",
                f"release {release!r} may hold pickles, which can run code when they are opened",
                got=f"loader {loader}",
                expected=", ".join(sorted(_LOADERS_WITHOUT_PICKLE)),
                fix="convert it on a machine that may be lost (sae.save_model), and load the directory",
            )
        sae = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except _LOAD_ERRORS as error:
        raise _load_failed(f"{release}/{sae_id}", error) from error
    summary = {"source": "release", "release": release, "sae_id": sae_id, **_facts(sae)}
    return convert_sae(sae, name=name, parent_digest=parent_digest, layer=layer, summary=summary)


def dictionary_from_directory(
    directory: Path, *, name: str, parent_digest: str, layer: int | None = None
) -> Dictionary:
    """What ``sae.save_model`` or ``save_inference_model`` of sae-lens wrote, as a dictionary.

    The directory holds cfg.json and sae_weights.safetensors, and no other file that could be weights.

    Raises:
        ProbeError: ``dictionary.no-sae-lens``, ``dictionary.unknown-file``, ``dictionary.load-failed``; any rule of
            :func:`probes.tensor_file.read_tensor_file` or :func:`probes.sae_conversion.convert_sae`.
    """
    sae_lens = require_sae_lens()
    files = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if files != _SAVED_FILES:
        raise ProbeError(
            "dictionary.unknown-file",
            f"{directory}: not a directory that sae-lens saved an inference model in",
            got=", ".join(sorted(files)) or "nothing",
            expected=", ".join(sorted(_SAVED_FILES)),
        )
    read_tensor_file(directory / "sae_weights.safetensors")  # for its refusals, before anything else opens it
    try:
        sae = sae_lens.SAE.load_from_disk(directory, device="cpu", dtype="float32")
    except _LOAD_ERRORS as error:
        raise _load_failed(str(directory), error) from error
    summary = {"source": "directory", **_facts(sae)}
    return convert_sae(sae, name=name, parent_digest=parent_digest, layer=layer, summary=summary)


def _loader_of(release: str) -> str:
    from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name

    return get_conversion_loader_name(release)


def _facts(sae: Any) -> dict[str, str]:
    metadata = sae.cfg.metadata
    return {
        "architecture": sae.cfg.architecture(),
        "hook_name": str(metadata.hook_name),
        "model_name": str(metadata.model_name),
    }


def _load_failed(what: str, error: Exception) -> ProbeError:
    first_line = str(error).splitlines()[0] if str(error) else ""
    return ProbeError(
        "dictionary.load-failed",
        f"{what} cannot be loaded with sae-lens",
        got=f"{type(error).__name__}: {first_line}"[:500],
        fix="check the names; a training checkpoint of BatchTopK must be exported first (save_inference_model)",
    )
