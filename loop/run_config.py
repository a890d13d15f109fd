"""What a run is: one YAML file, typed; unknown keys are refused with file:line:col."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from guards.canonical import digest_of
from guards.evidence import Frozen
from guards.strict_yaml import load_yaml
from loop.rejection import RetainedSource, SamplingPlan
from loop.train_record import Recipe


class Proposal(Frozen):
    """A proposer and how often it proposes. Every cycle ends in one candidate.

    ``retained`` says how many of the root's own training rows of each source are trained on again.
    ``accumulate`` trains on the verified rows of this proposal's earlier cycles too.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    proposer: Literal["rejection-sampling"]
    cycles: int = Field(ge=1, default=1)
    sampling: SamplingPlan
    recipe: Recipe
    retained: Mapping[RetainedSource, int] = Field(default_factory=dict)
    accumulate: bool = True
    note: str = ""


class Cleanup(Frozen):
    """Which checkpoints' files are deleted: rejected candidates, except the latest ``keep_rejected``."""

    keep_rejected: int = Field(ge=0, default=2)


class RunConfig(Frozen):
    """A run of the loop. Paths are relative to the file."""

    schema_: Literal["stairlock/run/v1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    description: str = ""
    root: str
    root_policy: str
    policy: str
    seed: int = Field(ge=0)
    device: str = "auto"
    dtype: str = "auto"
    proposals: tuple[Proposal, ...] = Field(min_length=1)
    cleanup: Cleanup = Cleanup()

    @model_validator(mode="after")
    def _proposals_differ(self) -> RunConfig:
        if len({proposal.id for proposal in self.proposals}) < len(self.proposals):
            raise PydanticCustomError("run.duplicate-proposal", "two proposals have the same id")
        return self

    @property
    def digest(self) -> str:
        """Names the configuration as it was read, defaults written out."""
        return digest_of(self.model_dump(mode="json", by_alias=True))


def load_run_config(path: Path) -> RunConfig:
    """Read a run's configuration.

    Raises:
        ConfigError: whatever :func:`guards.strict_yaml.load_yaml` refuses; ``run.duplicate-proposal``.
    """
    return load_yaml(path, RunConfig)


def seed_bytes(config_seed: int, *labels: str | int) -> bytes:
    """32 bytes for one use of randomness, from the run's seed and what it is for."""
    return bytes.fromhex(digest_of([config_seed, *map(str, labels)]).removeprefix("sha256:"))


def seed_int(config_seed: int, *labels: str | int) -> int:
    """A seed for a library that wants an integer below 2**31."""
    return int.from_bytes(seed_bytes(config_seed, *labels)[:4], "big") >> 1
