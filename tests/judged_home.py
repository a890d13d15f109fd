"""A home with a root and one candidate that was judged on real evidence, with texts of the test's choice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guards import actions
from guards.entries import DecisionMade, Logged
from guards.evidence import Cost, EvidenceRun, read_run
from guards.gates.verdict import Verdict
from tests.gate_world import make_run
from tests.store_world import World, make_world

if TYPE_CHECKING:
    from loop.run import RunReport

N_ITEMS = 10


@dataclass
class JudgedHome:
    """The world, its judged candidate, and the runs of its look by (role, suite)."""

    world: World
    candidate: str
    decision: Logged[DecisionMade]
    verdicts: tuple[Verdict, ...]
    runs: dict[tuple[str, str], EvidenceRun]

    @property
    def path(self) -> Path:
        return self.world.store.home


def verdict(gate_id: str, outcome: str, **changes: Any) -> Verdict:
    """A verdict with figures, as an eval gate on the suite ``refusal`` would give it."""
    figures: dict[str, Any] = {
        "gate_id": gate_id,
        "kind": "eval",
        "outcome": outcome,
        "reason": "refused minus the champion's must be no lower than -0.1",
        "observed": -0.3,
        "bound": -0.05 if outcome == "pass" else -0.42,
        "margin": -0.1,
        "n": N_ITEMS,
        "alpha": 0.00625,
        "policy_line": 12,
        "details": {"suite": "refusal", "metric": "refused", "claim": "non_inferior_within", "against": "champion"},
    }
    return Verdict.model_validate(figures | changes)


def judged_home(
    base: Path,
    *,
    outcome: str = "fail",
    scores: Sequence[float | None] = (1, 1, 1, 1, 1, 0, 0, 0, 0, 1),
    champion_scores: Sequence[float | None] = (1, 1, 1, 1, 1, 1, 1, 1, 0, 0),
    outputs: Sequence[str] | None = None,
    champion_outputs: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
    **world_changes: Any,
) -> JudgedHome:
    """Items 5 to 7 got worse, item 9 better. The first gate has ``outcome``, the other passes."""
    world = make_world(base, **world_changes)
    champion = world.set_root()
    made = {} if provenance is None else {"provenance": provenance}
    candidate = world.seal("candidate", **made)
    draw = world.draw(candidate)
    runs: dict[tuple[str, str], EvidenceRun] = {}
    answered = (("candidate", candidate, scores, outputs), ("champion", champion, champion_scores, champion_outputs))
    for role, checkpoint, role_scores, role_outputs in answered:
        run = make_run(
            world.store.home / "evidence",
            world.policy,
            role,
            role_scores,
            outputs=role_outputs,
            prompts=prompts,
            checkpoint_digest=checkpoint,
            draw_seed_digest=draw.seed_digest,
        )
        world.record_evidence(draw, role, run.directory)
        runs[role, "refusal"] = read_run(run.directory)
    gates = [gate.id for gate in world.policy.policy.gates]
    verdicts = tuple(verdict(gate, outcome if i == 0 else "pass") for i, gate in enumerate(gates))
    actions.record_verdicts(world.store, candidate=candidate, verdicts=verdicts, actor="runner")
    decision = actions.record_decision(world.store, candidate=candidate, actor="runner", roles=world.roles)
    return JudgedHome(world, candidate, decision, verdicts, runs)


def put_into_home(home: JudgedHome, name: str) -> None:
    """Copy a checkpoint of the world to where the home keeps sealed ones."""
    digest = home.world.checkpoint(name)
    shutil.copytree(home.world.directories[name], home.path / "checkpoints" / digest.removeprefix("sha256:")[:16])


def run_report(home: JudgedHome, **changes: Any) -> RunReport:
    """What a run would say that made this home's candidate, and another one that passed."""
    from loop.run import CandidateReport, RunReport

    root = home.world.checkpoint("root")
    body = home.decision.body
    cost = Cost(wall_ms=312_400, model_ms=290_000, tokens_in=1000, tokens_out=88_000, tokens_trained=45_120)
    bad = CandidateReport(
        name="format-only",
        digest=home.candidate,
        proposer="rejection-sampling (shortest-formatted)",
        outcome=body.outcome,
        reasons=body.reasons,
        promoted=False,
        verdicts=home.verdicts,
        cost=cost,
        runs=home.runs,
        n_rows=1200,
        notes=("addition level 2: pass@1 0.55",),
    )
    good = CandidateReport(
        name="improve",
        digest=home.world.checkpoint("improved"),
        proposer="rejection-sampling (verified)",
        outcome="promote",
        reasons=("all 2 gates pass, and nobody had to approve",),
        promoted=True,
        verdicts=tuple(verdict(gate.gate_id, "pass", observed=0.18, bound=0.11) for gate in home.verdicts),
        cost=cost,
        runs={},
        n_rows=1500,
        notes=(),
    )
    fields: dict[str, Any] = {
        "run": "demo",
        "root": root,
        "champion_before": root,
        "champion_after": good.digest,
        "policy_name": "sandbox",
        "policy_digest": home.world.policy.digest,
        "unattended": True,
        "candidates": (good, bad),
        "wall_s": 700.0,
        "model_s": 630.0,
        "costs": (("improve: train from the root", cost), ("improve: evaluate candidate", cost)),
    }
    return RunReport(**(fields | changes))
