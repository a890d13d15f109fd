"""Where the training of a dictionary stands, on disk, so that a killed training goes on exactly.

sae-lens keeps a trainer's state as a pickle, and a pickle is never opened here. This keeps the same state as
one safetensors file: the weights, Adam's two moments and step per weight, and since when each feature has
not fired. The learning rate is not in it: it follows from the number of steps, and the schedule is run again.

Not covered: another version of sae-lens or torch may go on with other last digits.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError

from guards.canonical import canonical_bytes, parse_json_strict
from guards.errors import ProbeError, StairlockError
from guards.evidence import Digest, Frozen
from probes.tensor_file import read_tensor_file, write_tensor_file

if TYPE_CHECKING:
    from sae_lens import SAETrainer

CHECKPOINT_FILE = "training.safetensors"
_METADATA_KEY = "training"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_SINCE_FIRED = "n_forward_passes_since_fired"


class CheckpointHeader(Frozen):
    """``training_digest`` names recipe, store and library versions; another training's state is refused."""

    model_config = ConfigDict(populate_by_name=True, strict=True)

    schema_: Literal["stairlock/dictionary-training/v1"] = Field(
        default="stairlock/dictionary-training/v1", alias="schema"
    )
    training_digest: Digest
    n_steps_done: int = Field(ge=0)


def save_training(directory: Path, trainer: SAETrainer[Any, Any], training_digest: str) -> None:
    """Write the trainer's state between two steps; the old file is replaced whole."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"sae.{name}": tensor for name, tensor in trainer.sae.state_dict().items()}
    for name, parameter in trainer.sae.named_parameters():
        for moment, value in trainer.optimizer.state[parameter].items():
            tensors[f"adam.{name}.{moment}"] = value
    tensors[_SINCE_FIRED] = trainer.n_forward_passes_since_fired
    header = CheckpointHeader(training_digest=training_digest, n_steps_done=trainer.n_training_steps)
    document = canonical_bytes(header.model_dump(mode="json", by_alias=True)).decode("utf-8")
    write_tensor_file(directory / CHECKPOINT_FILE, tensors, {_METADATA_KEY: document})


def restore_training(directory: Path, trainer: SAETrainer[Any, Any], training_digest: str) -> int:
    """Put a fresh trainer where a saved one was; returns the steps done, 0 where nothing was saved.

    Raises:
        ProbeError: ``dictionary.other-training``, ``dictionary.bad-checkpoint``; any rule of read_tensor_file.
    """
    path = directory / CHECKPOINT_FILE
    if not path.exists():
        return 0
    file = read_tensor_file(path)
    header = _header(path, file.metadata)
    if header.training_digest != training_digest:
        raise ProbeError(
            "dictionary.other-training",
            f"{path} is the state of another training (recipe, activations or library version)",
            got=header.training_digest,
            expected=training_digest,
            fix="name a new directory, or delete this one to begin again",
        )
    state = trainer.sae.state_dict()
    parameters = dict(trainer.sae.named_parameters())
    expected: dict[str, torch.Tensor] = {f"sae.{name}": tensor for name, tensor in state.items()}
    for name, parameter in parameters.items():
        expected |= {f"adam.{name}.{moment}": parameter for moment in _MOMENTS[1:]}
        expected[f"adam.{name}.step"] = torch.zeros(())
    expected[_SINCE_FIRED] = trainer.n_forward_passes_since_fired
    got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in file.tensors.items()}
    if got != {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in expected.items()}:
        raise ProbeError("dictionary.bad-checkpoint", f"{path}: tensors of another trainer", got=str(sorted(got))[:500])
    if not all(bool(torch.isfinite(tensor).all()) for tensor in file.tensors.values()):
        raise ProbeError("dictionary.bad-checkpoint", f"{path}: NaN or infinity", fix="delete it to begin again")
    trainer.sae.load_state_dict({name: file.tensors[f"sae.{name}"] for name in state})
    for name, parameter in parameters.items():
        trainer.optimizer.state[parameter] = {
            moment: file.tensors[f"adam.{name}.{moment}"].to("cpu" if moment == "step" else parameter.device)
            for moment in _MOMENTS
        }
    trainer.n_forward_passes_since_fired = file.tensors[_SINCE_FIRED].to(trainer.n_forward_passes_since_fired.device)
    trainer.n_training_steps = header.n_steps_done
    trainer.n_training_samples = header.n_steps_done * trainer.cfg.train_batch_size_samples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a schedule that runs ahead of its optimizer
        for _ in range(header.n_steps_done):
            trainer.lr_scheduler.step()
    return header.n_steps_done


def _header(path: Path, metadata: dict[str, str]) -> CheckpointHeader:
    try:
        if set(metadata) != {_METADATA_KEY}:
            raise ValueError(f"metadata keys {sorted(metadata)}")
        return CheckpointHeader.model_validate(
            parse_json_strict(metadata[_METADATA_KEY].encode("utf-8"), source=path.name)
        )
    except (ValidationError, StairlockError, ValueError, RecursionError) as error:
        raise ProbeError(
            "dictionary.bad-checkpoint", f"{path}: not the state of a training", got=str(error)[:300]
        ) from error
