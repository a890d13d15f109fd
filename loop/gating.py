"""The closed chamber: from a sealed candidate to a decision.

Draw the items after the seal; let candidate, champion, root and anchors answer the same items,
each in a process of its own; evaluate the gates; decide. Every arrow is a ledger entry first.

Where the policy says ``looks.stop_early``, suites are answered block by block, and no further once the
gates' verdicts are certain (:mod:`guards.gates.early_stop`, asked in this process, where no candidate runs).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from guards import actions
from guards.actions import Draw
from guards.actions.signoff import home_roles
from guards.contamination import TrainingRow
from guards.entries import DecisionMade, Logged
from guards.evidence import EvidenceRun, read_run
from guards.gates.alpha import LookPlan, earlier_looks
from guards.gates.early_stop import settled_suites, stoppable_suites
from guards.gates.evaluate import evaluate_gates
from guards.gates.holdouts import holdout_reads
from guards.gates.inputs import BudgetState, GateInputs, Role
from guards.gates.verdict import Verdict
from guards.manifest import CheckpointFacts, describe_checkpoint, verify_checkpoint
from guards.policy import CollapseGate, ContaminationGate, EvalGate, ResolvedPolicy
from guards.recorded_run import read_recorded_run
from loop.drift.candidate_drift import audit_candidate, banks_needed
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.sealed_checkpoints import sealed_directory
from loop.step import STEP_MANIFEST, Input, StepSpec
from loop.steps.evaluate_spec import evaluate_spec
from loop.steps.join import join_spec, joined, joined_from
from loop.suite_blocks import Block

Runs = dict[tuple[Role, str, str], EvidenceRun]
"""By role, checkpoint digest and suite."""
Settled = Callable[[Runs], frozenset[str]]
"""Given the runs so far, which suites need no more answers."""


@dataclass(frozen=True)
class GateResult:
    """What came out of one look."""

    draw: Draw
    verdicts: tuple[Verdict, ...]
    decision: Logged[DecisionMade]
    runs: Mapping[tuple[str, str], EvidenceRun]

    @property
    def items_by_suite(self) -> dict[str, tuple[int, int]]:
        """Of each suite that the candidate was asked: (items answered, items drawn)."""
        manifests = {suite: run.manifest for (role, suite), run in sorted(self.runs.items()) if role == "candidate"}
        return {suite: (one.n_items, one.n_drawn or one.n_items) for suite, one in manifests.items()}


def gate_candidate(
    home: Home,
    steps: RecordedSteps,
    *,
    candidate: str,
    compared_with: str,
    policy: ResolvedPolicy,
    actor: str,
    run: str | None,
    name: str,
    template_texts: tuple[str, ...],
    training_rows: tuple[TrainingRow, ...] | None = None,
    budget: BudgetState | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> GateResult:
    """One look at a sealed candidate, or the same look again after a crash.

    A look that has its verdicts is decided by them, and what it was decided by is read, not
    measured again: the code may be another since.

    Raises:
        ActionRefused, EvidenceError, StepError: see :mod:`guards.actions` and :mod:`loop.step`.
    """
    draw = actions.draw_seed(
        home.store, candidate=candidate, policy=policy.digest, actor=actor, run=run, compared_with=compared_with
    )
    checkpoints, anchors = _who_answers(home, candidate, compared_with)
    verdicts = _recorded_verdicts(home, draw)
    if verdicts:
        decision = actions.record_decision(home.store, candidate=candidate, actor=actor)
        recorded = _recorded_runs(home, steps, draw, name)
        if recorded is not None:
            return GateResult(draw=draw, verdicts=verdicts, decision=decision, runs=_by_role(recorded))

    def inputs(runs: Runs, facts: Mapping[Role, CheckpointFacts] | None = None) -> GateInputs:
        return GateInputs(
            policy=policy,
            look=draw.look,
            earlier_looks=_earlier_looks(home, policy, draw),
            holdout_reads=_earlier_reads(home, policy, draw),
            draw_seed_digest=draw.seed_digest,
            checkpoints=checkpoints,
            anchors=anchors,
            runs=_by_role(runs),
            facts=facts or {},
            training_rows=training_rows,
            template_texts=template_texts,
            budget=budget,
        )

    # A look that has its verdicts is answered as far again as it was, whatever became of the anchors since.
    settled = _settled_as_recorded(home, draw) if verdicts else lambda runs: settled_suites(inputs(runs))
    measured = measure(
        home,
        steps,
        policy,
        draw.seed,
        roles=_roles_recorded(home, draw, policy) if verdicts else _roles_by_suite(policy, checkpoints, anchors),
        name=name,
        candidate=candidate,
        device=device,
        dtype=dtype,
        settled=settled,
    )
    if _is_audited(home, draw, policy) if verdicts else banks_needed(policy):
        audits = audit_candidate(
            home,
            steps,
            policy,
            draw.seed,
            candidate=candidate,
            root=checkpoints.get("root"),
            training_rows=training_rows,
            name=name,
            device=device,
            dtype=dtype,
        )
        measured |= {("candidate", candidate, bank): run for bank, run in audits.items()}
    for (role, _digest, _suite), evidence in measured.items():
        actions.record_evidence(home.store, candidate=candidate, role=role, directory=evidence.directory, actor=actor)
    runs = _by_role(measured)
    if not verdicts:
        verdicts = evaluate_gates(inputs(measured, _facts(home, checkpoints)))
        actions.record_verdicts(home.store, candidate=candidate, verdicts=verdicts, actor=actor)
    decision = actions.record_decision(home.store, candidate=candidate, actor=actor)
    return GateResult(draw=draw, verdicts=verdicts, decision=decision, runs=runs)


def _earlier_looks(home: Home, policy: ResolvedPolicy, draw: Draw) -> tuple[LookPlan, ...]:
    with home.store.read() as history:
        return earlier_looks(history, policy.policy.name, draw.look)


def _earlier_reads(home: Home, policy: ResolvedPolicy, draw: Draw) -> dict[str, int]:
    with home.store.read() as history:
        return holdout_reads(history, policy.resolved, before_seq=draw.look_seq)


def _recorded_verdicts(home: Home, draw: Draw) -> tuple[Verdict, ...]:
    """The verdicts of a look that was interrupted after them: they stand, and are not made again.

    Those whose gate was waived since are marked, for whoever reads the report.
    """
    with home.store.read() as history:
        (look,) = (one for one in history.looks(draw.candidate) if one.seq == draw.look_seq)
        return actions.verdicts_now(history, look, home_roles(home.store), home.store.now())


def _recorded_runs(home: Home, steps: RecordedSteps, draw: Draw, name: str) -> Runs | None:
    """The runs that a look's verdicts are about, with what they cost; None if files of one are lost.

    Raises:
        EvidenceError: a run is there and is not what was recorded.
    """
    with home.store.read() as history:
        recorded = list(history.evidence(draw.look_seq))
    roles: dict[Path, set[str]] = defaultdict(set)
    for entry in recorded:
        roles[(home.path / entry.body.path).parent].add(entry.body.role)
    if not all((step_dir / STEP_MANIFEST).is_file() for step_dir in roles):
        return None
    for step_dir in list(roles):
        for block_dir in joined_from(step_dir):
            roles[block_dir] |= roles[step_dir]
    runs: Runs = {}
    for entry in recorded:
        runs[entry.body.role, entry.body.checkpoint, entry.body.suite] = read_recorded_run(home.path, entry)
    for step_dir, answered in roles.items():
        steps.found(f"{name}: evaluate {'/'.join(sorted(answered))}", step_dir)
    return runs


def _by_role(measured: Runs) -> dict[tuple[str, str], EvidenceRun]:
    """Runs by role and suite. Anchors may differ from gate to gate, so theirs stand under their digests."""
    return {(digest if role == "anchor" else role, suite): run for (role, digest, suite), run in measured.items()}


def _roles_recorded(home: Home, draw: Draw, policy: ResolvedPolicy) -> dict[tuple[Role, str], frozenset[str]]:
    """Who answered what in a look that has its verdicts; anchors may have moved on since."""
    answered: dict[tuple[Role, str], set[str]] = defaultdict(set)
    with home.store.read() as history:
        for recorded in history.evidence(draw.look_seq):
            if recorded.body.suite not in policy.policy.suites:
                continue  # an audit
            answered[recorded.body.role, recorded.body.checkpoint].add(recorded.body.suite)
    return {key: frozenset(suites) for key, suites in answered.items()}


def _is_audited(home: Home, draw: Draw, policy: ResolvedPolicy) -> bool:
    """Whether a look that has its verdicts had the candidate's drift measured."""
    with home.store.read() as history:
        return any(recorded.body.suite in policy.policy.banks for recorded in history.evidence(draw.look_seq))


def _settled_as_recorded(home: Home, draw: Draw) -> Settled:
    """Says of a suite that it is settled when its runs are those that were recorded."""
    with home.store.read() as history:
        bodies = [entry.body for entry in history.evidence(draw.look_seq)]
    recorded = {(body.role, body.checkpoint, body.suite): body.evidence for body in bodies}

    def settled(runs: Runs) -> frozenset[str]:
        other = {key[2] for key, run in runs.items() if run.manifest.evidence_digest != recorded.get(key)}
        return frozenset(suite for _, _, suite in runs) - other

    return settled


def _facts(home: Home, checkpoints: Mapping[Role, str]) -> dict[Role, CheckpointFacts]:
    """What the integrity gate reads, of files that have the digest that is being judged."""
    by_digest: dict[str, CheckpointFacts] = {}
    for digest in set(checkpoints.values()):
        directory = sealed_directory(home.path, digest)
        verify_checkpoint(directory, digest)
        by_digest[digest] = describe_checkpoint(directory)
    return {role: by_digest[digest] for role, digest in checkpoints.items()}


def measure(
    home: Home,
    steps: RecordedSteps,
    policy: ResolvedPolicy,
    seed: bytes,
    *,
    roles: Mapping[tuple[Role, str], frozenset[str]],
    name: str,
    candidate: str | None,
    device: str = "auto",
    dtype: str = "auto",
    settled: Settled | None = None,
) -> Runs:
    """Let each checkpoint answer the suites that it is needed for; one process per checkpoint.

    ``roles`` maps (role, checkpoint digest) to the names of its suites. A checkpoint with two
    roles answers once. The result is keyed by role, checkpoint digest and suite.

    With ``settled`` the suites that the policy allows it for are answered in blocks, each a step of its
    own. After a block ``settled`` is given the runs so far, and the suites that it names are left as they are.
    """
    suites_by_digest: dict[str, set[str]] = defaultdict(set)
    for (_role, digest), suites in roles.items():
        suites_by_digest[digest] |= set(suites)
    stop_early = policy.policy.looks.stop_early
    in_blocks = frozenset[str]() if settled is None else stoppable_suites(policy.policy)
    n_blocks = 1 if stop_early is None or not in_blocks else stop_early.blocks
    answered: dict[tuple[str, str], list[EvidenceRun]] = defaultdict(list)
    open_ = {digest: set(suites) for digest, suites in suites_by_digest.items()}

    def so_far() -> Runs:
        return {
            (role, digest, suite): joined(answered[digest, suite])
            for (role, digest), suites in roles.items()
            for suite in sorted(suites & in_blocks)
        }

    for number in range(n_blocks):
        for digest, suites in open_.items():
            if not suites:
                continue
            called = "/".join(sorted({role for role, d in roles if d == digest}))
            part = f", block {number + 1} of {n_blocks}" if n_blocks > 1 else ""
            blocks = {suite: Block(number=number, of=n_blocks) for suite in sorted(suites & in_blocks)}
            spec = _evaluate_spec(home, policy, digest, sorted(suites), seed, device, dtype, blocks)
            out_dir, _ = steps.run(f"{name}: evaluate {called}{part}", spec, candidate=candidate)
            for suite in suites:
                if suite not in blocks or (out_dir / suite).is_dir():  # a block of no items leaves none
                    answered[digest, suite].append(read_run(out_dir / suite, expect_checkpoint=digest))
        if settled is not None and number + 1 < n_blocks:
            closed = settled(so_far())
            open_ = {digest: (suites & in_blocks) - closed for digest, suites in open_.items()}
    return _one_run_each(steps, roles, answered, in_blocks, name=name, candidate=candidate)


def _one_run_each(
    steps: RecordedSteps,
    roles: Mapping[tuple[Role, str], frozenset[str]],
    answered: Mapping[tuple[str, str], list[EvidenceRun]],
    in_blocks: frozenset[str],
    *,
    name: str,
    candidate: str | None,
) -> Runs:
    """What each role is to be judged by: the runs that are whole as they are, and blocks joined."""
    found = {key: runs[0] for key, runs in answered.items() if key[1] not in in_blocks}
    for digest in {digest for digest, suite in answered if suite in in_blocks}:
        called = "/".join(sorted({role for role, d in roles if d == digest}))
        blocks = {suite: runs for (d, suite), runs in sorted(answered.items()) if d == digest and suite in in_blocks}
        out_dir, _ = steps.run(f"{name}: join blocks of {called}", join_spec(blocks), candidate=candidate)
        for suite in blocks:
            found[digest, suite] = read_run(out_dir / suite, expect_checkpoint=digest)
    return {
        (role, digest, suite): found[digest, suite]
        for (role, digest), suites in roles.items()
        for suite in sorted(suites)
    }


def _evaluate_spec(
    home: Home,
    policy: ResolvedPolicy,
    digest: str,
    suites: list[str],
    seed: bytes,
    device: str,
    dtype: str,
    blocks: Mapping[str, Block],
) -> StepSpec:
    paths = {suite: policy.source.parent / policy.policy.suites[suite] for suite in suites}
    return evaluate_spec(
        checkpoint=Input(kind="checkpoint", path=sealed_directory(home.path, digest), digest=digest),
        suites={
            suite: Input(kind="suite", path=path.resolve(), digest=policy.suite_digests[suite])
            for suite, path in paths.items()
        },
        salt_key=home.salt_key(),
        draw_seed=seed,
        device=device,
        dtype=dtype,
        blocks=blocks,
    )


def _who_answers(home: Home, candidate: str, compared_with: str) -> tuple[dict[Role, str], dict[str, str]]:
    """Digest by role, and by gate where a gate has an anchor of its own."""
    with home.store.read() as history:
        root, anchors = history.root(), history.anchors()
    checkpoints: dict[Role, str] = {"candidate": candidate, "champion": compared_with}
    if root is not None:
        checkpoints["root"] = checkpoints["anchor"] = root.body.checkpoint
    return checkpoints, anchors


def _roles_by_suite(
    policy: ResolvedPolicy, checkpoints: Mapping[Role, str], anchors: Mapping[str, str]
) -> dict[tuple[Role, str], frozenset[str]]:
    """Which checkpoint must answer which suites, in which role: no more than the gates read."""
    needed: dict[tuple[Role, str], set[str]] = defaultdict(set)
    for gate in policy.policy.leaf_gates():
        if isinstance(gate, ContaminationGate):
            needed["candidate", checkpoints["candidate"]] |= set(gate.suites)
        if not isinstance(gate, (EvalGate, CollapseGate)):
            continue
        needed["candidate", checkpoints["candidate"]].add(gate.suite)
        against: Role | None = gate.against
        if against is None:
            continue
        digest = anchors.get(gate.id) if against == "anchor" else None
        digest = digest or checkpoints.get(against)
        if digest is not None:  # without it the gate is inconclusive, and says so
            needed[against, digest].add(gate.suite)
    return {key: frozenset(suites) for key, suites in needed.items()}
