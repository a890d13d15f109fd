"""What the audit of a candidate must refuse, each with its exact rule: other models, changed kits, broken rows, small
banks. Nothing of a refused step stays on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from guards.canonical import canonical_bytes, sha256_bytes, sha256_file
from guards.drift.bank import read_bank
from guards.errors import ConfigError, StairlockError
from guards.evidence import EvidenceRun
from guards.gates.evaluate import evaluate_gates
from guards.gates.inputs import GateInputs
from guards.gates.verdict import Verdict
from guards.manifest import scan_checkpoint
from guards.policy import ResolvedPolicy
from loop.checkpoint_io import load_model, save_checkpoint
from loop.drift.kit_files import BANK_FILE, KIT_FILE, kit_inputs, read_kit
from loop.drift.probe_spec import NO_DRAW
from loop.gauntlet.bank_file import write_bank
from loop.gauntlet.scoring import default_scoring
from loop.gauntlet.verify import Behaviour, Measurement
from loop.step import Input, Progress, StepSpec, execute
from probes.dictionaries import save_dictionary
from tests.drift_world import LENIENT, N_BANK, DriftWorld, harmless
from tests.gate_world import make_policy
from tests.probes.planted import small_dictionary

OTHER = sha256_bytes(b"another one")
STRICT = Measurement(behaviour=Behaviour(refused=1.0, answered=0.0, distinct=0.0, language_nats=-100.0))
GATE = {"id": "drift", "kind": "drift", "bank": "tiny", "block_at": 0.2, "review_at": 0.25, "min_documents": 200}
BANK = [harmless(number) for number in range(N_BANK)]


def checkpoint(path: Path) -> Input:
    return Input(kind="checkpoint", path=path, digest=scan_checkpoint(path).digest)


def file(path: Path) -> Input:
    return Input(kind="file", path=path, digest=sha256_file(path))


def audit(world: DriftWorld, out_dir: Path, *, kit: Path | None = None, dtype: str = "auto", **inputs: Input) -> None:
    """The probe step, of the root itself where no candidate is given."""
    root = checkpoint(world.root)
    salt = world.home / "salt.key"
    spec = StepSpec(
        kind="probe",
        inputs={"root": root, "candidate": root, "salt_key": file(salt), **kit_inputs(kit or world.kit_dir), **inputs},
        params={"name": "drift", "draw_seed": NO_DRAW.hex(), "triggers": "rows" in inputs, "findings": False},
        dtype=dtype,
    )
    execute(spec, out_dir / "step", Progress())


def refusal(do: Callable[[], object]) -> str:
    with pytest.raises(StairlockError) as refused:
        do()
    return refused.value.rule


def copied(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / f"copy-of-{source.name}"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_bytes(canonical_bytes(body))


# The candidate


def with_other_tokenizer(world: DriftWorld, directory: Path) -> None:
    shutil.copytree(world.root, directory)

    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["merges"].pop()

    edit_json(directory / "tokenizer.json", change)


def of_shape(**changes: int) -> Callable[[DriftWorld, Path], None]:
    def make(world: DriftWorld, directory: Path) -> None:
        model, tokenizer = load_model(world.root)
        config = LlamaConfig(**{**model.config.to_dict(), **changes})
        save_checkpoint(LlamaForCausalLM(config).to(torch.bfloat16), tokenizer, directory)
        shutil.copyfile(world.root / "tokenizer.json", directory / "tokenizer.json")

    return make


def with_nan(tensor: str) -> Callable[[DriftWorld, Path], None]:
    def make(world: DriftWorld, directory: Path) -> None:
        shutil.copytree(world.root, directory)
        tensors = load_file(directory / "model.safetensors")
        tensors[tensor].view(-1)[7] = float("nan")
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})  # ours refuses to

    return make


CANDIDATES: dict[str, tuple[str, Callable[[DriftWorld, Path], None]]] = {
    "of another tokenizer": ("drift.other-tokenizer", with_other_tokenizer),
    "with fewer layers": ("activations.unknown-layer", of_shape(num_hidden_layers=1)),
    "with more layers": ("activations.layers-differ", of_shape(num_hidden_layers=3)),
    "narrower": ("activations.widths-differ", of_shape(hidden_size=16, intermediate_size=32, head_dim=4)),
    "of another vocabulary": ("outputs.other-vocabulary", of_shape(vocab_size=512)),
    "with NaN in a matrix": ("activations.not-finite", with_nan("model.layers.0.mlp.up_proj.weight")),
    "with NaN in a norm": ("activations.not-finite", with_nan("model.layers.1.input_layernorm.weight")),
    "with NaN in the embedding of one token": ("outputs.not-finite", with_nan("model.embed_tokens.weight")),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_that_cannot_be_compared(measured_world: DriftWorld, tmp_path: Path, name: str) -> None:
    rule, make = CANDIDATES[name]
    make(measured_world, tmp_path / "candidate")
    candidate = checkpoint(tmp_path / "candidate")
    assert refusal(lambda: audit(measured_world, tmp_path / "out", candidate=candidate)) == rule
    assert not (tmp_path / "out" / "step").exists()


def test_a_candidate_in_another_dtype(measured_world: DriftWorld, tmp_path: Path) -> None:
    assert refusal(lambda: audit(measured_world, tmp_path, dtype="float32")) == "drift.other-dtype"


# The kit


def test_a_kit_of_another_root(measured_world: DriftWorld, tiny_candidate: Path, tmp_path: Path) -> None:
    root = copied(tiny_candidate, tmp_path)
    assert refusal(lambda: audit(measured_world, tmp_path, root=checkpoint(root))) == "drift.other-parent"


def dictionary_of(parent: str, **changes: int) -> Callable[[Path], None]:
    """The kit with one dictionary more, whose digest is right."""

    def add(directory: Path) -> None:
        one = replace(small_dictionary(**{"dim": 32, "layer": 1, **changes}), parent_digest=parent, name="small")
        digest = save_dictionary(one, directory / "small.safetensors")
        edit_json(directory / KIT_FILE, lambda kit: kit["dictionaries"].update(small=digest))

    return add


def fewer_documents(directory: Path) -> None:
    lines = (directory / "documents.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "documents.jsonl").write_bytes(b"".join(lines[:-1]))


def other_document(directory: Path) -> None:
    text = (directory / "documents.jsonl").read_text()
    (directory / "documents.jsonl").write_text(text.replace('"token_ids":[', '"token_ids":[5,', 1))


def same_document_twice(directory: Path) -> None:
    lines = (directory / "documents.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "documents.jsonl").write_bytes(b"".join([*lines, lines[0]]))


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        text = (directory / name).read_text()
        assert old in text
        (directory / name).write_text(text.replace(old, new, 1))

    return change


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(data) and None


def removed(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def other_directions(directory: Path) -> None:
    data = bytearray((directory / "directions.safetensors").read_bytes())
    data[-1] ^= 1
    (directory / "directions.safetensors").write_bytes(bytes(data))


KITS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "of another root by its own word": (
        "directions.other-parent",
        lambda d: edit_json(d / KIT_FILE, lambda kit: kit.update(parent_digest=OTHER)),
    ),
    "with fewer documents than declared": ("drift.other-kit-file", fewer_documents),
    "with a document changed": ("drift.other-kit-file", other_document),
    "with a document twice": ("drift.bad-documents", same_document_twice),
    "with no documents": ("drift.bad-documents", written("documents.jsonl", b"")),
    "with documents of another form": ("drift.bad-documents", written("documents.jsonl", b'{"doc_id":"a"}\n')),
    "with documents that are no JSON": ("drift.bad-documents", written("documents.jsonl", b"{\n")),
    "without the file of documents": ("drift.no-kit-file", removed("documents.jsonl")),
    "without directions": ("drift.no-kit-file", removed("directions.safetensors")),
    "with directions changed": ("drift.other-kit-file", other_directions),
    "with prompts changed": ("drift.other-kit-file", written("prompts.json", b'{"neutral":["a"],"reference":["b"]}')),
    "without kit.json": ("drift.bad-kit-file", removed(KIT_FILE)),
    "with a kit.json that is cut off": ("drift.bad-kit-file", written(KIT_FILE, b'{"schema":')),
    "with a key that no kit has": ("drift.bad-kit-file", replaced(KIT_FILE, '"dose":', '"dosis":')),
    "with a dictionary of another model": ("dictionary.other-parent", dictionary_of(OTHER)),
}


@pytest.mark.parametrize("name", KITS)
def test_a_kit_that_was_changed(measured_world: DriftWorld, tmp_path: Path, name: str) -> None:
    rule, change = KITS[name]
    kit = copied(measured_world.kit_dir, tmp_path)
    change(kit)
    assert refusal(lambda: audit(measured_world, tmp_path / "out", kit=kit)) == rule
    assert not (tmp_path / "out" / "step").exists()


def test_a_dictionary_of_another_width(measured_world: DriftWorld, tmp_path: Path) -> None:
    kit = copied(measured_world.kit_dir, tmp_path)
    dictionary_of(measured_world.root_digest, dim=24)(kit)
    assert refusal(lambda: audit(measured_world, tmp_path / "out", kit=kit)) == "dictionary.other-width"


def test_a_dictionary_that_is_not_the_kits(measured_world: DriftWorld, tmp_path: Path) -> None:
    kit = copied(measured_world.kit_dir, tmp_path)
    dictionary_of(measured_world.root_digest)(kit)
    save_dictionary(
        replace(small_dictionary(dim=32, layer=1, seed=9), parent_digest=measured_world.root_digest),
        kit / "small.safetensors",
    )
    assert refusal(lambda: audit(measured_world, tmp_path / "out", kit=kit)) == "drift.other-kit-file"


def test_a_kit_file_that_changes_after_the_step_was_asked_for(measured_world: DriftWorld, tmp_path: Path) -> None:
    kit = copied(measured_world.kit_dir, tmp_path)
    documents = kit_inputs(kit)["documents"]
    other_document(kit)
    assert refusal(lambda: audit(measured_world, tmp_path / "out", documents=documents)) == "step.input-changed"


# Rows

ROWS = {
    "of another form": ("rows.malformed", b'{"row_id":"a","prompt":"b"}\n'),
    "cut off": ("json.malformed", b'{"row_id":"a","prompt":'),
    "none at all": ("rows.empty", b""),
    "with an id twice": ("rows.duplicate-id", 2 * b'{"row_id":"a","source":"s","prompt":"b","answer":"c"}\n'),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_no_rows_are_not_a_search_that_found_nothing(
    measured_world: DriftWorld, tmp_path: Path, name: str
) -> None:
    rule, data = ROWS[name]
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert refusal(lambda: audit(measured_world, tmp_path / "out", rows=file(tmp_path / "rows.jsonl"))) == rule
    assert not (tmp_path / "out" / "step").exists()


# The bank


def policy_of(directory: Path, bank: Path, **changes: Any) -> ResolvedPolicy:
    (directory / "policy").mkdir(parents=True)
    shutil.copyfile(bank, directory / "policy" / "bank.json")
    gate = {**GATE, "training_rows": "required", **changes}
    return make_policy(directory / "policy", gate, banks={"tiny": "bank.json"})


def judged(policy: ResolvedPolicy, run: EvidenceRun, **changes: Any) -> Verdict:
    checkpoints: Mapping[Any, str] = {
        "candidate": run.manifest.checkpoint_digest,
        "root": policy.banks["tiny"].parent_digest,
    }
    inputs = GateInputs(
        policy=policy,
        look=1,
        draw_seed_digest=sha256_bytes(NO_DRAW),
        checkpoints={**checkpoints, **changes},
        runs={("candidate", "tiny"): run},
    )
    return evaluate_gates(inputs)[0]


def rule_of(verdict: Verdict) -> tuple[str, str]:
    return verdict.outcome, verdict.details.get("rule", "")


@pytest.fixture
def candidate_run(measured_world: DriftWorld) -> EvidenceRun:
    """The first member's run, as evidence about a candidate."""
    (one,) = measured_world.measured(BANK[0])
    return one.run


def test_the_unchanged_bank_gives_a_p(measured_world: DriftWorld, candidate_run: EvidenceRun, tmp_path: Path) -> None:
    verdict = judged(policy_of(tmp_path, measured_world.kit_dir / BANK_FILE), candidate_run)
    assert verdict.observed is not None and verdict.n == N_BANK


def test_a_kit_that_was_edited_after_the_bank_was_built(
    measured_world: DriftWorld, candidate_run: EvidenceRun, tmp_path: Path
) -> None:
    bank = tmp_path / BANK_FILE
    shutil.copyfile(measured_world.kit_dir / BANK_FILE, bank)
    edit_json(bank, lambda body: body["kit"].update(measurement=999))
    assert rule_of(judged(policy_of(tmp_path, bank), candidate_run)) == ("inconclusive", "gate.other-suite")


def test_a_bank_of_another_root(measured_world: DriftWorld, candidate_run: EvidenceRun, tmp_path: Path) -> None:
    policy = policy_of(tmp_path, measured_world.kit_dir / BANK_FILE)
    assert rule_of(judged(policy, candidate_run, root=OTHER)) == ("inconclusive", "drift.other-parent")


def test_a_policy_that_asks_for_more_documents_than_the_kit_has(
    measured_world: DriftWorld, candidate_run: EvidenceRun, tmp_path: Path
) -> None:
    n_documents = len(read_kit(measured_world.kit_dir / KIT_FILE).documents)
    bank = measured_world.kit_dir / BANK_FILE
    enough = judged(policy_of(tmp_path / "a", bank, min_documents=n_documents), candidate_run)
    assert enough.observed is not None
    more = judged(policy_of(tmp_path / "b", bank, min_documents=n_documents + 1), candidate_run)
    assert rule_of(more) == ("inconclusive", "drift.too-few-documents")


def test_members_that_fail_verification_count_for_nothing(
    measured_world: DriftWorld, candidate_run: EvidenceRun, tmp_path: Path
) -> None:
    good, bad = measured_world.measured(*BANK[:4]), measured_world.measured(BANK[4], root=STRICT)
    scoring = default_scoring()
    write_bank(tmp_path / "with.json", measured_world.kit, scoring, [*good, *bad])
    write_bank(tmp_path / "without.json", measured_world.kit, scoring, good)
    verdicts = [
        judged(policy_of(tmp_path / name, tmp_path / f"{name}.json", review_at=0.3, block_at=0.2), candidate_run)
        for name in ("with", "without")
    ]
    assert verdicts[0].n == verdicts[1].n == 4
    assert verdicts[0].observed == verdicts[1].observed
    assert "1 others do not count" in verdicts[0].details["bank"]


def test_a_bank_that_is_too_small_once_the_unverified_are_left_out(
    measured_world: DriftWorld, candidate_run: EvidenceRun, tmp_path: Path
) -> None:
    members = [*measured_world.measured(*BANK[:3]), *measured_world.measured(*BANK[3:], root=STRICT)]
    write_bank(tmp_path / BANK_FILE, measured_world.kit, default_scoring(), members)
    verdict = judged(policy_of(tmp_path, tmp_path / BANK_FILE), candidate_run)
    assert rule_of(verdict) == ("inconclusive", "drift.bank-too-small")


def test_a_bank_of_no_verified_member_is_not_written(measured_world: DriftWorld, tmp_path: Path) -> None:
    members = measured_world.measured(*BANK, root=STRICT)
    with pytest.raises(ConfigError) as refused:
        write_bank(tmp_path / BANK_FILE, measured_world.kit, default_scoring(), members)
    assert refused.value.rule == "drift.empty-bank"
    assert not (tmp_path / BANK_FILE).exists()


def test_a_stage_that_the_kit_has_no_component_of_is_not_written(measured_world: DriftWorld, tmp_path: Path) -> None:
    stages = {**default_scoring().stages, "dictionary": default_scoring().stages["weights"]}
    with pytest.raises(ConfigError) as refused:
        write_bank(
            tmp_path / BANK_FILE,
            measured_world.kit,
            default_scoring().model_copy(update={"stages": stages}),
            measured_world.measured(*BANK, root=LENIENT),
        )
    assert refused.value.rule == "drift.bad-bank"


def test_a_bank_that_was_tampered_with_is_another_policy(measured_world: DriftWorld, tmp_path: Path) -> None:
    policy = policy_of(tmp_path / "a", measured_world.kit_dir / BANK_FILE)
    bank = tmp_path / BANK_FILE
    shutil.copyfile(measured_world.kit_dir / BANK_FILE, bank)
    edit_json(bank, lambda body: body["members"][0].update(reason="somebody says so"))
    assert read_bank(bank).bank.members[0].reason == "somebody says so"
    assert policy_of(tmp_path / "b", bank).digest != policy.digest
