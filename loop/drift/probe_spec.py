"""The probe step's spec, for whoever asks for an audit: a look, the bank's builder, ``stairlock audit``."""

from __future__ import annotations

from pathlib import Path

from loop.drift.kit_files import kit_inputs
from loop.step import Input, StepSpec

PROBE_NAME = "drift"
"""What a run is called that belongs to no policy, and so to no bank's name there."""
NO_DRAW = bytes(32)
"""The seed where nothing is drawn: the documents are the kit's."""


def probe_spec(
    *,
    root: Input,
    candidate: Input,
    salt_key: Input,
    kit_dir: Path,
    rows: Input | None,
    name: str = PROBE_NAME,
    draw_seed: bytes = NO_DRAW,
    triggers: bool = True,
    findings: bool,
    device: str = "auto",
    dtype: str = "auto",
) -> StepSpec:
    """The step that :mod:`loop.steps.probe` describes; ``rows`` are the candidate's training rows.

    Raises:
        ProbeError: as :func:`loop.drift.kit_files.kit_inputs`.
    """
    inputs = {"root": root, "candidate": candidate, "salt_key": salt_key, **kit_inputs(kit_dir)}
    if rows is not None:
        inputs["rows"] = rows
    params = {"name": name, "draw_seed": draw_seed.hex(), "triggers": triggers, "findings": findings}
    return StepSpec(kind="probe", inputs=inputs, params=params, device=device, dtype=dtype)
