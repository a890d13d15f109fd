"""The verify step: how one checkpoint behaves on the verification prompts (:mod:`loop.gauntlet.verify`).

Inputs: ``candidate`` (checkpoint). Parameters: ``fault`` (its name, or None). Outputs: ``behaviour.json``
(:class:`loop.gauntlet.verify.Measurement`). What follows from it is decided by who reads it.
"""

from __future__ import annotations

from pathlib import Path

from guards.canonical import canonical_bytes
from guards.evidence import Cost
from loop.checkpoint_io import load_model
from loop.gauntlet.verify import measure
from loop.step import Progress, StepSpec

BEHAVIOUR_FILE = "behaviour.json"


def verify(spec: StepSpec, out_dir: Path, progress: Progress) -> Cost:
    """Run the step; see the module's docstring."""
    source = spec.inputs["candidate"]
    model, tokenizer = load_model(source.path, spec.device, spec.dtype, expected_digest=source.digest)
    progress("verifying behaviour", 0, 1)
    found = measure(model, tokenizer, spec.params["fault"])
    (out_dir / BEHAVIOUR_FILE).write_bytes(canonical_bytes(found.model_dump(mode="json")))
    return Cost(wall_ms=0)
