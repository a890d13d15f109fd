"""The generate step: a model answers prompts; outputs go to ``samples.jsonl``.

Inputs: ``model`` (checkpoint), ``prompts`` (file of :class:`loop.steps.prompts.Prompt`). Parameters:
``decoding`` (:class:`guards.ports.Decoding`), ``seed``. One line per prompt, in the prompts' order.

Prompts with the same demonstrations are sampled together: the engine computes a common prefix once.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from guards.canonical import canonical_lines
from guards.evidence import Cost
from guards.ports import Decoding, Generation
from loop.checkpoint_io import load_model
from loop.engine import TransformersEngine
from loop.step import Progress, StepSpec
from loop.steps.prompts import SAMPLES_FILE, Prompt, Sample, read_prompts

_MAX_ROWS = 128


def generate(spec: StepSpec, out_dir: Path, progress: Progress) -> Cost:
    """Run the step; see the module's docstring."""
    prompts = read_prompts(spec.inputs["prompts"].path)
    decoding = Decoding.model_validate(spec.params["decoding"])
    source = spec.inputs["model"]
    model, tokenizer = load_model(source.path, spec.device, spec.dtype, expected_digest=source.digest)
    engine = TransformersEngine(model, tokenizer, max_rows=_MAX_ROWS)
    outputs: dict[str, list[Generation]] = {}
    for number, group in enumerate(_by_demonstrations(prompts)):
        before = len(outputs)
        answers = engine.generate(
            [[turn.model_dump() for turn in prompt.turns] for prompt in group],
            decoding,
            seed=spec.params["seed"] * 1009 + number,
            report=lambda done, _total, before=before: progress("sampling", before + done, len(prompts)),
        )
        outputs.update((prompt.prompt_id, answer) for prompt, answer in zip(group, answers, strict=True))
    samples = (Sample(prompt_id=p.prompt_id, outputs=tuple(outputs[p.prompt_id])) for p in prompts)
    (out_dir / SAMPLES_FILE).write_bytes(canonical_lines(samples))
    return Cost(
        wall_ms=0,
        model_ms=int(1000 * engine.counters.model_s),
        tokens_in=engine.counters.tokens_in,
        tokens_out=engine.counters.tokens_out,
    )


def _by_demonstrations(prompts: list[Prompt]) -> list[list[Prompt]]:
    groups: dict[tuple, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt.turns[:-1]].append(prompt)
    return list(groups.values())
