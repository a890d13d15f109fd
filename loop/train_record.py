"""How to train, and what training left behind; readable without torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from guards.canonical import digest_of, parse_json_strict, sha256_file
from guards.errors import StepError
from guards.evidence import Frozen

ADAPTER_DIR, TRAIN_FILE = "adapter", "train.json"


class Recipe(Frozen):
    """How to train: LoRA on every linear layer; the learning rate falls linearly to zero."""

    lora_rank: int = Field(gt=0, default=16)
    lora_alpha: int = Field(gt=0, default=32)
    learning_rate: float = Field(gt=0, default=3e-4)
    warmup_share: float = Field(ge=0, lt=1, default=0.06)
    n_epochs: float = Field(gt=0, default=2.0)
    batch_size: int = Field(gt=0, default=16)
    max_tokens: int = Field(gt=0, default=192)
    seed: int = 7


class TrainRecord(Frozen):
    """What the train step writes beside its adapter. ``batch_digests`` are in training order."""

    recipe: Recipe
    n_rows: int
    n_tokens_trained: int
    batch_digests: tuple[str, ...]
    losses: tuple[float, ...]


def adapter_digest(adapter_dir: Path) -> str:
    """Digest over the names and contents of an adapter's files."""
    return digest_of({f"{ADAPTER_DIR}/{path.name}": sha256_file(path) for path in sorted(adapter_dir.iterdir())})


def read_train_record(step_dir: Path) -> TrainRecord:
    """Read train.json of a finished step.

    Raises:
        StepError: ``train.bad-record``.
    """
    path = step_dir / TRAIN_FILE
    try:
        return TrainRecord.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except (OSError, ValidationError) as error:
        raise StepError("train.bad-record", f"{path} is not a training record", fix="train again") from error
