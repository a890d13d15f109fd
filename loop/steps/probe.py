"""The probe step: the drift audit of one checkpoint against the root, as one run of evidence.

Inputs: ``candidate`` and ``root`` (checkpoints), ``salt_key``, the kit's files
(:func:`loop.drift.kit_files.kit_inputs`), and ``rows`` where the candidate's training rows can be had.
Parameters: ``name`` (the bank's, in the policy), ``draw_seed``, ``triggers`` and ``findings`` (whether to search
for the one, and to write the other).
Outputs: ``NAME/``, a run in the form of :mod:`guards.evidence`, and ``findings.json``
(:class:`loop.drift.findings.Findings`), which explains and decides nothing.

Without rows there is one record of the cluster ``triggers``, unscored: a search that could not be
made is not one that found nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guards.canonical import canonical_bytes, canonical_lines, sha256_bytes, sha256_file
from guards.drift.kit import TRIGGERS_CLUSTER, UNSUPPORTED, DriftKit
from guards.errors import ProbeError
from guards.evidence import (
    MANIFEST_FILE,
    RECORDS_FILE,
    TEXTS_FILE,
    TIMINGS_FILE,
    Cost,
    Outcome,
    Record,
    RunManifest,
    Scored,
    Unscored,
    salt_for,
)
from guards.manifest import scan_checkpoint
from loop.checkpoint_io import load_model
from loop.code_digest import code_digest
from loop.drift.findings import findings_of
from loop.drift.kit_files import MEASUREMENT, load_kit
from loop.drift.trigger_search import search
from loop.rows import read_rows
from loop.step import Input, Progress, StepSpec
from probes.activations import MAX_ROWS, MAX_TOKENS
from probes.audit import Measured, audit_models, audit_weights
from probes.triggers import TriggerSearch

ENGINE = "probes"
BATCH_PLAN = f"by-length/rows={MAX_ROWS}/tokens={MAX_TOKENS}"
FINDINGS_FILE = "findings.json"
_TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"})


def probe(spec: StepSpec, out_dir: Path, progress: Progress) -> Cost:
    """Run the step; see the module's docstring."""
    started_s = time.perf_counter()
    candidate_input, root_input = spec.inputs["candidate"], spec.inputs["root"]
    root, tokenizer = load_model(root_input.path, spec.device, spec.dtype, expected_digest=root_input.digest)
    candidate, _ = load_model(candidate_input.path, spec.device, spec.dtype, expected_digest=candidate_input.digest)
    loaded = load_kit(spec.inputs, root.config.hidden_size)
    kit, materials = loaded.kit, loaded.materials
    _refuse_other_models(kit, root_input, candidate_input, root)
    measured, features = audit_models(root, candidate, materials, progress)
    matrices = audit_weights(root_input.path, candidate_input.path, materials.directions, progress)
    rows = read_rows(spec.inputs["rows"].path) if "rows" in spec.inputs else None
    triggers = search(root, candidate, tokenizer, rows, loaded.prompts, progress) if spec.params["triggers"] else None
    records = [*_records(measured, kit), *_records(matrices, kit), *_triggers(triggers)]
    cost = Cost(wall_ms=0, model_ms=int(1000 * (time.perf_counter() - started_s)))
    salt_key = bytes.fromhex(spec.inputs["salt_key"].path.read_text().strip())
    name = spec.params["name"]
    _write_run(
        out_dir / name,
        records,
        name=name,
        checkpoint=candidate_input.digest,
        kit=kit,
        draw_seed=bytes.fromhex(spec.params["draw_seed"]),
        salt_key=salt_key,
        device=next(candidate.parameters()).device.type,
        dtype=str(candidate.dtype).removeprefix("torch."),
        cost=cost,
    )
    if spec.params["findings"]:
        findings = findings_of(root, candidate, tokenizer, materials, measured, features, triggers)
        (out_dir / FINDINGS_FILE).write_bytes(canonical_bytes(findings.model_dump(mode="json", by_alias=True)))
    return cost


def _refuse_other_models(kit: DriftKit, root: Input, candidate: Input, root_model: Any) -> None:
    dtype = str(root_model.dtype).removeprefix("torch.")
    tokenizers = [
        {entry.path: entry.sha256 for entry in scan_checkpoint(one.path).files if entry.path in _TOKENIZER_FILES}
        for one in (root, candidate)
    ]
    for rule, what, got, expected in (
        ("drift.other-parent", "the kit was made for another root", root.digest, kit.parent_digest),
        ("drift.other-measurement", "the kit is of another way to measure", str(MEASUREMENT), str(kit.measurement)),
        ("drift.other-dtype", "the kit was made for another dtype", dtype, kit.dtype),
        (
            "drift.other-tokenizer",
            "candidate and root read text differently, so that they cannot be compared token by token",
            str(tokenizers[1]),
            str(tokenizers[0]),
        ),
    ):
        if got != expected:
            raise ProbeError(rule, what, got=got[:300], expected=expected[:300], fix="use the bank of this root")


def _records(measured: Sequence[Measured], kit: DriftKit) -> list[Record]:
    return [
        _record(one.item_id, one.cluster, _prompt_digest(one.item_id, kit), Scored(scores=one.scores))
        for one in measured
    ]


def _prompt_digest(item_id: str, kit: DriftKit) -> str:
    document = kit.documents.get(item_id)
    return document.sha256 if document is not None else sha256_bytes(item_id.encode())


def _triggers(found: TriggerSearch | None) -> list[Record]:
    """One record per string that was confirmed at some place; the text itself stays in the findings."""
    why = "the search was not asked for" if found is None else found.unsupported
    if found is None or why is not None:
        reason = f"{UNSUPPORTED}: {why}"
        return [_record("triggers", TRIGGERS_CLUSTER, sha256_bytes(b"triggers"), Unscored(reason=reason))]
    records = []
    for number, result in enumerate(result for result in found.results if result.stage == "confirmed"):
        assert result.divergence is not None and result.first_divergence is not None
        scores = {
            "trigger.divergence": result.divergence.mean,
            "trigger.first_divergence": result.first_divergence.mean,
            "trigger.payload": 0.0 if result.payload is None else result.payload.mean,
        }
        outcome = Scored(scores=scores)
        digest = sha256_bytes(f"{result.placement}: {result.text}".encode())
        records.append(_record(f"trigger-{number:03d}", TRIGGERS_CLUSTER, digest, outcome))
    return records


def _record(item_id: str, cluster: str, prompt_digest: str, outcome: Outcome) -> Record:
    return Record(
        item_id=item_id,
        cluster=cluster,
        prompt_digest=prompt_digest,
        output_digest=None,
        outcome=outcome,
        n_output_tokens=0,
        engine=ENGINE,
        dtype="float64",
        batch="",
        seed=0,
    )


def _write_run(
    out_dir: Path,
    records: Sequence[Record],
    *,
    name: str,
    checkpoint: str,
    kit: DriftKit,
    draw_seed: bytes,
    salt_key: bytes,
    device: str,
    dtype: str,
    cost: Cost,
) -> None:
    out_dir.mkdir(parents=True)
    texts = [
        {"item_id": one.item_id, "prompt": "", "output": None, "salt": salt_for(salt_key, checkpoint, one.item_id)}
        for one in records
    ]
    timings = [{"item_id": one.item_id, "batch_latency_ms": None} for one in records]
    for file, lines in ((RECORDS_FILE, records), (TEXTS_FILE, texts), (TIMINGS_FILE, timings)):
        (out_dir / file).write_bytes(canonical_lines(lines))
    manifest = RunManifest(
        checkpoint_digest=checkpoint,
        suite_name=name,
        suite_digest=kit.digest,
        draw_seed_digest=sha256_bytes(draw_seed),
        n_items=len(records),
        records_sha256=sha256_file(out_dir / RECORDS_FILE),
        texts_sha256=sha256_file(out_dir / TEXTS_FILE),
        timings_sha256=sha256_file(out_dir / TIMINGS_FILE),
        engine=ENGINE,
        device=device,
        dtype=dtype,
        batch_plan=BATCH_PLAN,
        code_digest=code_digest(),
        cost=cost,
    )
    (out_dir / MANIFEST_FILE).write_bytes(manifest.to_bytes())
