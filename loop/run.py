"""A run of the loop, top to bottom: root, then for every cycle propose, train, seal, gate, promote or refuse.

Everything heavy is a step and everything decided is an action, and both return what exists when
they are asked again. So resuming a run is running it again: finished steps are found by their
keys, entries by their meaning, and only what is missing is done.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guards import actions
from guards.canonical import canonical_lines
from guards.errors import ActionRefused
from guards.evidence import Cost, EvidenceRun
from guards.gates.budget import used_since_a_person
from guards.gates.inputs import BudgetState
from guards.gates.verdict import Verdict
from guards.manifest import manifest_path_for
from guards.policy import ResolvedPolicy, resolve_policy
from loop.backends.port import Backend
from loop.families import question_templates
from loop.gain import Gain, measure_gain
from loop.gating import GateResult, gate_candidate
from loop.home import Home
from loop.recorded_steps import RecordedSteps, Stage
from loop.rejection import (
    draw_problems,
    level_outcomes,
    next_frontier,
    retained_rows,
    select_rows,
    with_demonstrations,
)
from loop.root import ensure_root
from loop.rows import Row, as_training_rows
from loop.run_config import Proposal, RunConfig, load_run_config, seed_bytes, seed_int
from loop.sealed_checkpoints import sealed_directory
from loop.sealing import merge_and_seal
from loop.step import Input, StepSpec
from loop.steps.prompts import SAMPLES_FILE, read_samples
from loop.train_record import ADAPTER_DIR, adapter_digest, read_train_record


@dataclass(frozen=True)
class CandidateReport:
    """One candidate of a run, from proposal to decision."""

    name: str
    digest: str
    proposer: str
    outcome: str
    reasons: tuple[str, ...]
    promoted: bool
    verdicts: tuple[Verdict, ...]
    cost: Cost
    runs: Mapping[tuple[str, str], EvidenceRun]
    n_rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """What a run did."""

    run: str
    root: str
    champion_before: str
    champion_after: str
    policy_name: str
    policy_digest: str
    unattended: bool
    candidates: tuple[CandidateReport, ...]
    wall_s: float
    model_s: float
    costs: tuple[tuple[str, Cost], ...]
    gain: Gain | None = None


@dataclass
class _LoopState:
    """What one proposal carries from cycle to cycle; rebuilt from finished steps on resuming."""

    frontier: dict[str, int]
    accumulated: list[Row]


def plan_loop(config_path: Path) -> list[str]:
    """What a run would do, one line per step; nothing is computed or written."""
    config = load_run_config(config_path)
    policy = resolve_policy(config_path.parent / config.policy)
    lines = [f"root: {config.root}, gated by {config.root_policy}"]
    for proposal in config.proposals:
        plan = proposal.sampling
        for cycle in range(1, proposal.cycles + 1):
            name = _cycle_name(proposal, cycle)
            lines += [
                f"{name}: sample {plan.n_samples} answers a prompt, {plan.n_prompts_per_level} prompts a level, "
                f"{len(plan.frontier)} families, keep what is {plan.select}",
                f"{name}: train from the root, {proposal.recipe.n_epochs:g} epochs, LoRA rank "
                f"{proposal.recipe.lora_rank}; merge in float64; seal",
                f"{name}: draw items; candidate, champion, root and anchors answer {', '.join(policy.policy.suites)}",
                f"{name}: {len(policy.policy.gates)} gates of {policy.policy.name}; decide; "
                f"{policy.policy.approvals.required} approvals",
            ]
    lines.append("gain: if the champion is not the root, both answer fresh items of the superiority gates' suites")
    return lines


def run_loop(
    config_path: Path,
    home: Home,
    *,
    backend: Backend,
    stage: Stage,
    actor: str,
    resume: bool,
    retrain_root: bool,
) -> RunReport:
    """Run a configuration to its end.

    Raises:
        ActionRefused: ``run.exists`` (a run of this name was begun and ``resume`` is false),
            ``actions.other-config``, ``actions.halted``, ``actions.looser-policy``.
        StairlockError: whatever a step, an action or a gate's evidence refuses.
    """
    started_s = time.monotonic()
    config = load_run_config(config_path)
    policy = resolve_policy(config_path.parent / config.policy)
    root_policy = resolve_policy(config_path.parent / config.root_policy)
    _begin(home, config, policy, actor=actor, resume=resume)
    # Before anything is computed: a policy that may not come into force could promote nothing of this run.
    actions.record_policy(home.store, policy=policy, actor=actor)
    actions.adopt_policy(home.store, policy=policy.digest, actor=actor)
    steps = RecordedSteps(home, backend, stage, actor=actor, run=config.name)
    root, _, root_rows = ensure_root(
        home,
        steps,
        config_path.parent / config.root,
        root_policy,
        stage,
        actor=actor,
        run=config.name,
        retrain=retrain_root,
    )
    champion_before = _champion(home)
    reports: list[CandidateReport] = []
    for proposal in config.proposals:
        state = _LoopState(dict(proposal.sampling.frontier), [])
        for cycle in range(1, proposal.cycles + 1):
            report = _one_cycle(
                home, steps, stage, config, policy, proposal, cycle, state, root=root, root_rows=root_rows, actor=actor
            )
            reports.append(report)
            _clean_up(home, config, reports, actor=actor)
    # Only now: what a run gained is measured on items that no decision in it could use.
    gain = measure_gain(home, steps, policy, run=config.name, actor=actor, device=config.device, dtype=config.dtype)
    model_ms = sum(cost.model_ms for _, cost in steps.costs)
    report = RunReport(
        run=config.name,
        root=root,
        champion_before=champion_before,
        champion_after=_champion(home),
        policy_name=policy.policy.name,
        policy_digest=policy.digest,
        unattended=policy.policy.approvals.required == 0,
        candidates=tuple(reports),
        wall_s=time.monotonic() - started_s,
        model_s=model_ms / 1000,
        costs=tuple(steps.costs),
        gain=gain,
    )
    outcomes = {candidate.name: candidate.outcome for candidate in reports}
    summary = {"champion": report.champion_after, "outcomes": outcomes}
    actions.finish_run(home.store, run=config.name, outcome="finished", summary=summary, actor=actor)
    return report


def _begin(home: Home, config: RunConfig, policy: ResolvedPolicy, *, actor: str, resume: bool) -> None:
    with home.store.read() as history:
        begun = history.run(config.name) is not None
    if begun and not resume:
        raise ActionRefused(
            "run.exists",
            f"the run {config.name!r} was begun in this home already",
            fix="add --resume to finish it, rename the run in its file, or use another --home",
        )
    plan = {"name": config.name, "proposals": [proposal.id for proposal in config.proposals], "seed": config.seed}
    actions.start_run(home.store, run=config.name, config=config.digest, policy=policy.digest, plan=plan, actor=actor)


def _one_cycle(
    home: Home,
    steps: RecordedSteps,
    stage: Stage,
    config: RunConfig,
    policy: ResolvedPolicy,
    proposal: Proposal,
    cycle: int,
    state: _LoopState,
    *,
    root: str,
    root_rows: list[Row],
    actor: str,
) -> CandidateReport:
    name = _cycle_name(proposal, cycle)
    first_cost = len(steps.costs)
    champion = _champion_at(home, config, name)

    # champion ─sample→ verified data
    verified, notes = _propose(home, steps, config, proposal, name, champion, state)
    seed = seed_bytes(config.seed, name, "retained")
    rows = [
        *(state.accumulated if proposal.accumulate else verified),
        *retained_rows(root_rows, proposal.retained, seed),
    ]

    # root + accumulated data ─train→ candidate ─seal→
    candidate = _train_and_seal(
        home, steps, stage, config, policy, proposal, name, root=root, champion=champion, rows=rows, actor=actor
    )

    look_name = f"{config.name}/{name}"
    # suites: candidate, champion, root on the same items, drawn after the seal; gates; decision
    result = gate_candidate(
        home,
        steps,
        candidate=candidate,
        compared_with=_champion_to_gate_against(home, candidate, look_name),
        policy=policy,
        actor=actor,
        run=look_name,
        name=name,
        template_texts=question_templates(),
        training_rows=as_training_rows([*root_rows, *rows]),  # the root's rows are in these weights too
        budget=_budget(home),
        device=config.device,
        dtype=config.dtype,
    )
    promoted = _promote_if_decided(home, result, candidate, actor=actor)
    saved = _record_items(home, config, name, candidate, policy, result, actor=actor)
    return CandidateReport(
        name=name,
        digest=candidate,
        proposer=f"{proposal.proposer} ({proposal.sampling.select})",
        outcome=result.decision.body.outcome,
        reasons=result.decision.body.reasons,
        promoted=promoted,
        verdicts=result.verdicts,
        cost=sum_costs(cost for _, cost in steps.costs[first_cost:]),
        runs=result.runs,
        n_rows=len(rows),
        notes=(*((proposal.note,) if proposal.note else ()), *notes, *saved),
    )


def _propose(
    home: Home,
    steps: RecordedSteps,
    config: RunConfig,
    proposal: Proposal,
    name: str,
    champion: str,
    state: _LoopState,
) -> tuple[list[Row], tuple[str, ...]]:
    """This cycle's accepted rows; the state's frontier and accumulated rows move on."""
    plan = proposal.sampling
    problems = draw_problems(plan, state.frontier, seed_bytes(config.seed, name, "problems"))
    prompts = with_demonstrations(problems, plan, seed_bytes(config.seed, name, "demonstrations"))
    prompts_file = home.keep_file(canonical_lines(prompts))
    out_dir, _ = steps.run(
        f"{name}: sample from the champion",
        StepSpec(
            kind="generate",
            inputs={"model": _checkpoint(home, champion), "prompts": prompts_file},
            params={
                "decoding": plan.decoding.model_dump(mode="json"),
                "seed": seed_int(config.seed, name, "sampling"),
            },
            device=config.device,
            dtype=config.dtype,
        ),
    )
    samples = read_samples(out_dir / SAMPLES_FILE)
    accepted = select_rows(problems, samples, plan, source=f"{plan.select}/{name}")
    outcomes = level_outcomes(problems, samples)
    notes = tuple(
        f"{o.family} level {o.level}: pass@1 {o.pass_at_1:.2f}, pass@{plan.n_samples} {o.pass_at_k:.2f}, "
        f"in form {o.formatted:.2f} of {o.n_prompts} prompts"
        for o in outcomes
    )
    known = {row.row_id for row in state.accumulated}
    state.accumulated += [row for row in accepted if row.row_id not in known]
    state.frontier = next_frontier(state.frontier, outcomes)
    return accepted, notes


def _train_and_seal(
    home: Home,
    steps: RecordedSteps,
    stage: Stage,
    config: RunConfig,
    policy: ResolvedPolicy,
    proposal: Proposal,
    name: str,
    *,
    root: str,
    champion: str,
    rows: list[Row],
    actor: str,
) -> str:
    rows_file = home.keep_file(canonical_lines(rows))
    recipe = proposal.recipe.model_copy(update={"seed": seed_int(config.seed, name, "training")})
    spec = StepSpec(
        kind="train",
        inputs={"parent": _checkpoint(home, root), "rows": rows_file},
        params={"recipe": recipe.model_dump(mode="json")},
        device=config.device,
        dtype=config.dtype,
    )
    step_dir, manifest = steps.run(f"{name}: train from the root", spec)
    record = read_train_record(step_dir)
    sealed = merge_and_seal(
        home.path, parent=root, adapter_dir=step_dir / ADAPTER_DIR, report=stage(f"{name}: merge and seal")
    )
    actions.seal_candidate(
        home.store,
        manifest=sealed,
        provenance={
            "name": name,
            "proposer": proposal.proposer,
            "select": proposal.sampling.select,
            "sampled_from": champion,
            "train": {
                "step": spec.key,
                "parent": root,
                "rows": rows_file.digest,
                "recipe": recipe.model_dump(mode="json"),
                "device": config.device,
                "dtype": config.dtype,
            },
            "n_rows": len(rows),
            "batch_digests": list(record.batch_digests),
            "adapter": adapter_digest(step_dir / ADAPTER_DIR),
            "environment": manifest.environment,
            "cost": manifest.cost.model_dump(),
        },
        policy=policy.digest,
        parent=root,
        actor=actor,
        submitter=actor,
        trainer=actor,
    )
    return sealed.digest


def _champion_to_gate_against(home: Home, candidate: str, look_name: str) -> str:
    """The champion in use; where this run decided the candidate's look before, the one of that look."""
    with home.store.read() as history:
        look = history.latest_look(candidate)
        if look is not None and look.body.run == look_name and history.decision(look.seq) is not None:
            assert look.body.compared_with is not None  # a run always compares
            return look.body.compared_with
    return _champion(home)


def _promote_if_decided(home: Home, result: GateResult, candidate: str, *, actor: str) -> bool:
    """Promote what was decided so. If another champion came into use meanwhile, it stays unpromoted: gate it again."""
    if result.decision.body.outcome != "promote":
        return False
    with home.store.read() as history:
        if history.promotion(result.decision.seq) is not None:
            return True
        if history.champion() != result.draw.compared_with:
            return False
    actions.promote(
        home.store,
        candidate=candidate,
        champion_expected=str(result.draw.compared_with),
        checkpoint_dir=sealed_directory(home.path, candidate),
        actor=actor,
    )
    return True


def _champion(home: Home) -> str:
    with home.store.read() as history:
        champion = history.champion()
    if champion is None:
        raise ActionRefused("actions.no-champion", "there is no champion yet", fix="set a root first (stairlock run)")
    return champion


def _champion_at(home: Home, config: RunConfig, name: str) -> str:
    """The champion that this cycle began with; a resumed cycle keeps it, whatever was promoted since."""
    began = actions.record_measured(
        home.store, run=config.name, name=f"{name}/begins", figures={"champion": _champion(home)}, actor="stairlock"
    )
    return str(began.body.figures["champion"])


def _record_items(
    home: Home,
    config: RunConfig,
    name: str,
    candidate: str,
    policy: ResolvedPolicy,
    result: GateResult,
    *,
    actor: str,
) -> tuple[str, ...]:
    """Record how many items of each suite were answered and saved, where suites may be stopped early; in words."""
    if policy.policy.looks.stop_early is None:
        return ()
    counts = result.items_by_suite
    figures = {
        suite: {"answered": answered, "drawn": drawn, "saved": drawn - answered}
        for suite, (answered, drawn) in counts.items()
    }
    actions.record_measured(
        home.store, run=config.name, name=f"{name}/items", figures=figures, actor=actor, candidate=candidate
    )
    return tuple(
        f"{suite}: {answered} of {drawn} items answered, {drawn - answered} saved"
        for suite, (answered, drawn) in counts.items()
    )


def _budget(home: Home) -> BudgetState:
    with home.store.read() as history:
        return used_since_a_person(history)


def _clean_up(home: Home, config: RunConfig, reports: list[CandidateReport], *, actor: str) -> None:
    """Delete the files of rejected candidates, except the latest few; the ledger keeps their digests."""
    rejected = [report.digest for report in reports if report.outcome == "reject"]
    keep = config.cleanup.keep_rejected
    for digest in rejected[: max(0, len(rejected) - keep)]:
        directory = sealed_directory(home.path, digest)
        if not directory.is_dir():
            continue
        actions.record_cleanup(home.store, checkpoint=digest, rule=f"keep_rejected={keep}", actor=actor)
        manifest_path_for(directory).unlink(missing_ok=True)
        # Renamed away first: a killed clean-up must not leave half a checkpoint under its name.
        doomed = tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".partial", dir=directory.parent)
        directory.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _checkpoint(home: Home, digest: str) -> Input:
    return Input(kind="checkpoint", path=sealed_directory(home.path, digest), digest=digest)


def _cycle_name(proposal: Proposal, cycle: int) -> str:
    return proposal.id if proposal.cycles == 1 else f"{proposal.id}-{cycle}"


def sum_costs(costs) -> Cost:
    """Costs added up; the peak of memory is the largest."""
    total = Cost(wall_ms=0)
    for cost in costs:
        total = Cost(
            wall_ms=total.wall_ms + cost.wall_ms,
            model_ms=total.model_ms + cost.model_ms,
            tokens_in=total.tokens_in + cost.tokens_in,
            tokens_out=total.tokens_out + cost.tokens_out,
            tokens_trained=total.tokens_trained + cost.tokens_trained,
            peak_rss_mib=max(total.peak_rss_mib, cost.peak_rss_mib),
        )
    return total
