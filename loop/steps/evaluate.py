"""The evaluate step: one checkpoint answers one draw of each suite; each suite leaves a run.

Inputs and parameters: :mod:`loop.steps.evaluate_spec`. Outputs: one directory per suite, named as
the policy names it, in the form of :mod:`guards.evidence`. A suite that is answered in blocks leaves the
run of this step's block, and none where that block is empty.

An answer that cannot be scored leaves its item ``Unscored`` with the reason; the gate counts it
against the candidate. An error while the model answers ends the step: items are answered in
batches, so that it is no single item's, and without the step's output no gate passes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from guards.canonical import canonical_lines, sha256_bytes, sha256_file
from guards.errors import StairlockError
from guards.evidence import (
    MANIFEST_FILE,
    RECORDS_FILE,
    TEXTS_FILE,
    TIMINGS_FILE,
    Cost,
    Outcome,
    Record,
    RunManifest,
    Unscored,
    salt_for,
    salted_digest,
)
from guards.ports import Generation
from loop.checkpoint_io import load_model
from loop.code_digest import code_digest
from loop.engine import TransformersEngine
from loop.step import Progress, StepSpec
from loop.steps.evaluate_spec import MODEL, SALT_KEY, suite_input
from loop.suite_blocks import Block, items_of_block, seed_of_block
from loop.suites import Suite, SuiteItem, draw_items, load_suite, score_logliks, score_output

_MAX_ROWS = 128


def evaluate(spec: StepSpec, out_dir: Path, progress: Progress) -> Cost:
    """Run the step; see the module's docstring."""
    salt_key = bytes.fromhex(spec.inputs[SALT_KEY].path.read_text().strip())
    seed_hex = spec.params["draw_seed"]
    source = spec.inputs[MODEL]
    model, tokenizer = load_model(source.path, spec.device, spec.dtype, expected_digest=source.digest)
    engine = TransformersEngine(model, tokenizer, max_rows=_MAX_ROWS)
    total = Cost(wall_ms=0)
    for name in spec.params["suites"]:
        suite = load_suite(spec.inputs[suite_input(name)].path)
        block = spec.params.get("blocks", {}).get(name)
        cost = run_suite(
            engine,
            suite,
            suite_name=name,
            draw_seed=bytes.fromhex(seed_hex),
            checkpoint_digest=source.digest,
            salt_key=salt_key,
            out_dir=out_dir / name,
            progress=progress,
            block=None if block is None else Block.model_validate(block),
        )
        total = Cost(
            wall_ms=0,
            model_ms=total.model_ms + cost.model_ms,
            tokens_in=total.tokens_in + cost.tokens_in,
            tokens_out=total.tokens_out + cost.tokens_out,
        )
    return total


def run_suite(
    engine: TransformersEngine,
    suite: Suite,
    *,
    suite_name: str,
    draw_seed: bytes,
    checkpoint_digest: str,
    salt_key: bytes,
    out_dir: Path,
    progress: Progress,
    block: Block | None = None,
) -> Cost:
    """Draw, answer, score and write one run, or one block of it; the manifest is written last."""
    started_s, before = time.perf_counter(), _counters(engine)
    drawn = draw_items(suite, draw_seed)
    items = drawn if block is None else items_of_block(drawn, draw_seed, suite_name, block)
    if not items:
        return Cost(wall_ms=0)
    seed = seed_of_block(draw_seed, block)

    def report(done: int, n_items: int) -> None:
        progress(f"evaluating {suite_name}", done, n_items)

    if suite.scored_by_likelihood:
        measured = _likelihoods(engine, suite, items, report)
    else:
        measured = _answers(engine, suite, items, seed, report)
    out_dir.mkdir(parents=True)
    records, texts, timings = [], [], []
    for item, (outcome, output, generation) in zip(items, measured, strict=True):
        salt = salt_for(salt_key, checkpoint_digest, item.item_id)
        tags = dict(item.tags)
        if generation is not None:
            tags["finished"] = str(generation.finished).lower()
            tags["entropy_nats"] = f"{generation.entropy_nats:.4f}"
        records.append(
            Record(
                item_id=item.item_id,
                cluster=item.cluster,
                tags=tags,
                prompt_digest=sha256_bytes(item.prompt_text.encode()),
                output_digest=None if output is None else salted_digest(salt, output),
                outcome=outcome,
                n_output_tokens=0 if generation is None else generation.n_tokens,
                engine=engine.name,
                dtype=engine.dtype,
                batch="" if generation is None else generation.batch,
                seed=seed,
            )
        )
        texts.append({"item_id": item.item_id, "prompt": item.prompt_text, "output": output, "salt": salt})
        timings.append(
            {"item_id": item.item_id, "batch_latency_ms": None if generation is None else generation.latency_ms}
        )
    for name, lines in ((RECORDS_FILE, records), (TEXTS_FILE, texts), (TIMINGS_FILE, timings)):
        (out_dir / name).write_bytes(canonical_lines(lines))
    after = _counters(engine)
    cost = Cost(
        wall_ms=int(1000 * (time.perf_counter() - started_s)),
        model_ms=after[0] - before[0],
        tokens_in=after[1] - before[1],
        tokens_out=after[2] - before[2],
    )
    unanswered = Counter(item.cluster for item in drawn) - Counter(item.cluster for item in items)
    manifest = RunManifest(
        checkpoint_digest=checkpoint_digest,
        suite_name=suite_name,
        suite_digest=suite.digest,
        draw_seed_digest=sha256_bytes(draw_seed),
        n_items=len(items),
        records_sha256=sha256_file(out_dir / RECORDS_FILE),
        texts_sha256=sha256_file(out_dir / TEXTS_FILE),
        timings_sha256=sha256_file(out_dir / TIMINGS_FILE),
        engine=engine.name,
        device=engine.device,
        dtype=engine.dtype,
        batch_plan=engine.batch_plan,
        code_digest=code_digest(),
        cost=cost,
        n_drawn=len(drawn) if unanswered else None,
        unanswered=dict(sorted(unanswered.items())) if unanswered else None,
    )
    (out_dir / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return cost


_Measured = tuple[Outcome, str | None, Generation | None]


def _answers(
    engine: TransformersEngine, suite: Suite, items: Sequence[SuiteItem], seed: int, report
) -> list[_Measured]:
    assert suite.decoding is not None  # the suite's model demands it for scorers that read answers
    outputs = engine.generate([item.messages or () for item in items], suite.decoding, seed=seed, report=report)
    measured: list[_Measured] = []
    for item, (generation,) in zip(items, outputs, strict=True):
        try:
            outcome: Outcome = score_output(suite, item, generation.text, generation.finished)
        except StairlockError as error:
            outcome = Unscored(reason=error.rule)
        measured.append((outcome, generation.text, generation))
    return measured


def _likelihoods(engine: TransformersEngine, suite: Suite, items: Sequence[SuiteItem], report) -> list[_Measured]:
    logliks = iter(engine.loglik([pair for item in items for pair in item.loglik_pairs], report=report))
    measured: list[_Measured] = []
    for item in items:
        values = [next(logliks) for _ in item.loglik_pairs]
        try:
            outcome: Outcome = score_logliks(suite, item, values)
        except (StairlockError, ValueError) as error:  # a value that is not finite cannot become a score
            outcome = Unscored(reason=getattr(error, "rule", "likelihood.not-finite"))
        measured.append((outcome, json.dumps([round(v, 6) for v in values]), None))
    return measured


def _counters(engine: TransformersEngine) -> tuple[int, int, int]:
    counters = engine.counters
    return int(1000 * counters.model_s), counters.tokens_in, counters.tokens_out
