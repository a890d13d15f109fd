"""What the evaluate step reads, by name; readable without torch.

Inputs: ``model`` (checkpoint), ``salt_key`` (file), and for every suite ``suite:NAME``: no suite can
have a name that hides another input. Parameters: ``draw_seed`` (64 hex digits), ``suites`` (names in
order), and where a suite is answered in parts, ``blocks``: suite name -> the part that this step answers.
"""

from __future__ import annotations

from collections.abc import Mapping

from loop.step import Input, StepSpec
from loop.suite_blocks import Block

MODEL, SALT_KEY = "model", "salt_key"


def suite_input(name: str) -> str:
    """The input that holds the suite of this name."""
    return f"suite:{name}"


def evaluate_spec(
    *,
    checkpoint: Input,
    suites: Mapping[str, Input],
    salt_key: Input,
    draw_seed: bytes,
    device: str,
    dtype: str,
    blocks: Mapping[str, Block] | None = None,
) -> StepSpec:
    """The step in which one checkpoint answers one draw of each suite, in the order of ``suites``.

    Of a suite that ``blocks`` names it answers that part only.
    """
    parts = {name: block.model_dump() for name, block in (blocks or {}).items()}
    return StepSpec(
        kind="evaluate",
        inputs={
            MODEL: checkpoint,
            SALT_KEY: salt_key,
            **{suite_input(name): suite for name, suite in suites.items()},
        },
        params={"draw_seed": draw_seed.hex(), "suites": list(suites), **({"blocks": parts} if parts else {})},
        device=device,
        dtype=dtype,
    )
