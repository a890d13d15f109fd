"""How long, and in how much memory, a new policy is simulated over many stored candidates.

``python -m benchmarks.simulate_policy --home DIR --n 10000 --out FILE``

The home is made in bulk where there is none: every entry goes through the log's own append (hashes,
Merkle nodes, state tables), only the checks and the flush to disk of single actions are left out, and
many entries share a transaction. Verdicts are those of the gates. Per candidate: a seal, a draw, two
runs of 400 items with ten 0/1 metrics, ten verdicts, a decision. Policies of ten names share the
candidates, because a policy plans 1,000 looks at most. Of a home of up to 200 candidates the log is
verified, so that what is measured is a log that the actions could have written.

Measured are ``stairlock policy simulate`` as it is used, each time in a process of its own: without a
cache, with it, and for another policy with it. The file system's cache is warm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guards.authoring.score_table_cache import CACHE_FILE
from guards.canonical import canonical_bytes, digest_of, sha256_bytes
from guards.decision import decide
from guards.entries import (
    Body,
    DecisionMade,
    EvidenceRecorded,
    PolicyRecorded,
    RootSet,
    Sealed,
    SeedDrawn,
    VerdictRecorded,
)
from guards.evidence import Cost, Record, RunManifest, Scored
from guards.gates.alpha import plan_of
from guards.gates.evaluate import evaluate_gates
from guards.gates.inputs import GateInputs
from guards.gates.score_table import ScoreTable, make_table
from guards.policy import UNATTENDED, EvalGate, ResolvedPolicy, resolve_policy
from guards.store import Store

N_ITEMS = 400
N_GATES = 10
N_POLICIES = 10
N_LOOKS_PLANNED = 1000
CANDIDATES_A_TRANSACTION = 100
LARGEST_VERIFIED = 200

METRICS = tuple(f"metric{number}" for number in range(N_GATES))
_SHARE_RIGHT = 0.7
_SHARES_CHANGED = (0.01, 0.04, 0.12)
_PLACEHOLDER = b'{"metric0":0.5}'


def gates(margin: float, level: float) -> list[dict[str, Any]]:
    """Ten eval gates, one for each metric: every kind of claim, against champion and root."""
    common = {"kind": "eval", "suite": "tasks", "alpha": 0.05, "min_items": 100, "max_unscored": 0.02}
    holds = {"claim": "non_inferior_within", "margin": margin}
    asked: list[dict[str, Any]] = [
        {"claim": "superior_by", "margin": 0.0, "against": "champion", "alpha": 0.05 if margin < 0.1 else 0.1},
        {"claim": "superior_by", "margin": margin / 4, "against": "root"},
        *({**holds, "against": "champion"} for _ in range(5)),
        {**holds, "against": "root"},
        {"claim": "at_least", "level": level},
        {"claim": "at_most", "level": 1.0 - level / 8},
    ]
    return [
        {**common, "id": f"gate-{metric}", "metric": metric, **one} for metric, one in zip(METRICS, asked, strict=True)
    ]


def write_policy(directory: Path, name: str, margin: float, level: float) -> ResolvedPolicy:
    """A policy of ten gates on one suite; JSON is YAML too."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tasks.yaml").write_text("name: tasks\nitems: generated\n")
    body = {
        "schema": "stairlock/policy/v1",
        "name": name,
        "description": "ten gates",
        "looks": {"planned": N_LOOKS_PLANNED},
        "suites": {"tasks": "tasks.yaml"},
        "gates": gates(margin, level),
        "approvals": {"required": 0, "unattended": UNATTENDED},
    }
    path = directory / f"{name}.yaml"
    path.write_text(json.dumps(body, indent=1))
    return resolve_policy(path)


# ---------------------------------------------------------------------------------------------
# A home of many candidates
# ---------------------------------------------------------------------------------------------


class RunWriter:
    """Writes runs fast: the bytes of an item are the same but for its scores, of which there are 2^10."""

    def __init__(self) -> None:
        parts = [
            canonical_bytes(self._record(number).model_dump(mode="json")).split(_PLACEHOLDER)
            for number in range(N_ITEMS)
        ]
        self._parts = [(before, after + b"\n") for before, after in parts]
        self._scores = [
            canonical_bytes({m: float(mask >> i & 1) for i, m in enumerate(METRICS)}) for mask in range(1024)
        ]

    @staticmethod
    def _record(number: int) -> Record:
        item_id = f"item-{number:04d}"
        return Record(
            item_id=item_id,
            cluster=f"family{number % 8}",
            prompt_digest=sha256_bytes(item_id.encode()),
            output_digest=sha256_bytes(b"output"),
            outcome=Scored(scores={"metric0": 0.5}),
            n_output_tokens=7,
            engine="none",
            dtype="bfloat16",
            batch="0",
            seed=0,
        )

    def write(self, directory: Path, masks: Sequence[int], **who: str) -> RunManifest:
        """A run of which item i has the scores ``masks[i]``, one bit for each metric."""
        directory.mkdir(parents=True)
        records = b"".join(
            before + self._scores[mask] + after for (before, after), mask in zip(self._parts, masks, strict=True)
        )
        (directory / "records.jsonl").write_bytes(records)
        (directory / "timings.jsonl").write_bytes(b"")
        manifest = RunManifest(
            suite_name="tasks",
            n_items=N_ITEMS,
            records_sha256=sha256_bytes(records),
            texts_sha256=sha256_bytes(b""),
            timings_sha256=sha256_bytes(b""),
            engine="none",
            device="cpu",
            dtype="bfloat16",
            batch_plan="one",
            code_digest=sha256_bytes(b"code"),
            cost=Cost(wall_ms=1),
            **who,
        )
        (directory / "manifest.json").write_bytes(canonical_bytes(manifest.model_dump(mode="json", by_alias=True)))
        return manifest


@dataclass
class Counted:
    """Score tables of one look, counted from the masks and not read back from the records."""

    candidate: Sequence[int]
    champion: Sequence[int]

    def table(self, gate: EvalGate, inputs: GateInputs) -> ScoreTable:
        from collections import Counter

        bit = METRICS.index(gate.metric)
        cells = Counter(
            (
                f"family{number % 8}",
                None,
                float(mine >> bit & 1),
                None if gate.against is None else float(other >> bit & 1),
            )
            for number, (mine, other) in enumerate(zip(self.candidate, self.champion, strict=True))
        )
        return make_table(cells)


def build_home(home: Path, n_candidates: int) -> None:
    """Make the home, in a directory beside it until it is whole."""
    partial = home.with_name(home.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    store = Store.open(partial, create=True)
    policies = [write_policy(partial / "policies", f"policy{n}", 0.08, 0.6) for n in range(N_POLICIES)]
    root = _manifest(b"root")
    with store.write() as transaction:
        for policy in policies:
            body = PolicyRecorded(policy=policy.digest, name=policy.policy.name, resolved=policy.canonical_json)
            transaction.append("benchmark", body)
        verdicts = tuple(
            {"gate_id": gate.id, "kind": "eval", "outcome": "pass", "reason": "x"} for gate in policies[0].policy.gates
        )
        transaction.append(
            "benchmark",
            RootSet(
                checkpoint=digest_of(root),
                manifest=root,
                policy=policies[0].digest,
                evidence=(sha256_bytes(b"evidence"),),
                verdicts=verdicts,
            ),
        )
    writer, generator = RunWriter(), random.Random(3)
    for first in range(0, n_candidates, CANDIDATES_A_TRANSACTION):
        with store.write() as transaction:
            for number in range(first, min(n_candidates, first + CANDIDATES_A_TRANSACTION)):
                policy = policies[number % N_POLICIES]
                look = number // N_POLICIES + 1
                append = transaction.append
                _candidate(append, writer, generator, partial, policy, digest_of(root), number, look)
        print(f"\r{min(n_candidates, first + CANDIDATES_A_TRANSACTION):,} candidates", end="", file=sys.stderr)
    print(file=sys.stderr)
    if n_candidates <= LARGEST_VERIFIED:
        store.verify()
    store.close()
    partial.rename(home)


def _candidate(
    append: Any,
    writer: RunWriter,
    generator: random.Random,
    home: Path,
    policy: ResolvedPolicy,
    root: str,
    number: int,
    look: int,
) -> None:
    manifest, seed = _manifest(f"candidate {number}".encode()), generator.randbytes(32)
    candidate = digest_of(manifest)
    seal = Sealed(
        candidate=candidate,
        manifest=manifest,
        provenance={"name": f"cycle-{number}", "proposer": "rejection-sampling", "rows": [sha256_bytes(b"r")] * 8},
        parent=root,
        submitter="benchmark",
        trainer="benchmark",
        policy=policy.digest,
    )
    append("benchmark", seal)
    drawn = append(
        "benchmark",
        SeedDrawn(
            candidate=candidate,
            policy=policy.digest,
            policy_name=policy.policy.name,
            look=look,
            seed=seed.hex(),
            champion=root,
            compared_with=root,
            run=f"run/{number}",
        ),
    )
    champion_masks = list(_masks(generator))
    candidate_masks = list(_changed(generator, champion_masks, generator.choice(_SHARES_CHANGED)))
    evidence: list[str] = []
    for role, checkpoint, masks in (("candidate", candidate, candidate_masks), ("champion", root, champion_masks)):
        directory = home / "evidence" / f"{number // 1000}" / f"{number}-{role}"
        run = writer.write(
            directory,
            masks,
            checkpoint_digest=checkpoint,
            suite_digest=policy.suite_digests["tasks"],
            draw_seed_digest=sha256_bytes(seed),
        )
        evidence.append(run.evidence_digest)
        append(
            "benchmark",
            EvidenceRecorded(
                candidate=candidate,
                look_seq=drawn.seq,
                role=role,
                checkpoint=checkpoint,
                suite="tasks",
                evidence=run.evidence_digest,
                path=directory.relative_to(home).as_posix(),
            ),
        )
    for body in _judged(
        policy, candidate, root, look, drawn.seq, seed, Counted(candidate_masks, champion_masks), evidence
    ):
        append("benchmark", body)


def _judged(
    policy: ResolvedPolicy,
    candidate: str,
    root: str,
    look: int,
    look_seq: int,
    seed: bytes,
    tables: Counted,
    evidence: list[str],
) -> Iterator[Body]:
    inputs = GateInputs(
        policy=policy,
        look=look,
        earlier_looks=(plan_of(policy.policy),) * (look - 1),
        draw_seed_digest=sha256_bytes(seed),
        checkpoints={"candidate": candidate, "champion": root, "root": root},
        runs={},
        tables=tables,
    )
    verdicts = evaluate_gates(inputs)
    about: dict[str, Any] = {
        "candidate": candidate,
        "policy": policy.digest,
        "look_seq": look_seq,
        "evidence": digest_of(sorted(evidence)),
    }
    for verdict in verdicts:
        yield VerdictRecorded(**about, gate=verdict.gate_id, outcome=verdict.outcome, figures=verdict.to_ledger())
    decision = decide(policy.policy, verdicts, approvals_ok=True)
    yield DecisionMade(
        **about, champion=root, outcome=decision.outcome, waits_for=decision.waits_for, reasons=decision.reasons
    )


def _manifest(of: bytes) -> dict[str, Any]:
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    files = [{"path": name, "size_bytes": 1, "sha256": sha256_bytes(of + name.encode())} for name in names]
    return {"schema": "stairlock/checkpoint/v1", "files": files}


def _masks(generator: random.Random) -> Iterator[int]:
    for _ in range(N_ITEMS):
        yield sum((generator.random() < _SHARE_RIGHT) << bit for bit in range(N_GATES))


def _changed(generator: random.Random, masks: Sequence[int], share: float) -> Iterator[int]:
    for mask in masks:
        yield mask ^ sum((generator.random() < share) << bit for bit in range(N_GATES))


# ---------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------


def measured(home: Path, policy: Path) -> dict[str, Any]:
    """Wall time, processor time and peak memory of one simulation, in a process of its own."""
    out = home.with_name("simulate.out")
    started_s = time.perf_counter()
    arguments = [sys.executable, "-m", "loop.cli", "policy", "simulate", str(policy), "--home", str(home)]
    with out.open("wb") as stdout:
        pid = os.posix_spawn(
            sys.executable,
            arguments,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, stdout.fileno(), 1), (os.POSIX_SPAWN_DUP2, stdout.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(out.read_text()[-4000:])
    return {
        "wall_s": round(time.perf_counter() - started_s, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mib": usage.ru_maxrss // 1024,
    }


def main() -> None:
    """Build what is missing, measure, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    home: Path = arguments.home.resolve()
    if not home.exists():
        build_home(home, arguments.n)
    new = write_policy(home / "policies", "new", 0.1, 0.62).source
    other = write_policy(home / "policies", "other", 0.06, 0.58).source
    (home / CACHE_FILE).unlink(missing_ok=True)
    figures: dict[str, Any] = {"n_candidates": arguments.n, "n_gates": N_GATES, "n_items": N_ITEMS}
    for name, policy in (("without_cache", new), ("cached", new), ("cached_other_policy", other)):
        figures[name] = measured(home, policy)
        print(name, figures[name])
    figures["ledger_mib"] = round((home / "stairlock.db").stat().st_size / 2**20)
    figures["cache_mib"] = round((home / CACHE_FILE).stat().st_size / 2**20)
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
