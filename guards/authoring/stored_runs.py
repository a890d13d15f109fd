"""The stored evidence of one past look, for a simulation: read when a gate asks for it, and only then.

Not covered: evidence that was never recorded, or is gone. A gate that needs it is inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from guards.authoring.score_table_cache import ScoreTableCache, state_of_records, table_key
from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, read_run
from guards.gates.eval_table import table_from_runs
from guards.gates.inputs import GateInputs, Role
from guards.gates.score_table import ScoreTable
from guards.manifest import CheckpointFacts
from guards.past_looks import Answer, PastLook
from guards.policy import EvalGate, ResolvedPolicy

FactsOf = Callable[[str], CheckpointFacts]
"""Describes the files of a checkpoint by its digest; raises StairlockError where they are gone."""


class StoredRuns(Mapping[tuple[str, str], EvidenceRun]):
    """The evidence of one look, read when it is asked for; its score tables come from the cache where they can."""

    def __init__(
        self,
        home: Path,
        cache: ScoreTableCache,
        new: ResolvedPolicy,
        look: PastLook,
        run_digests: Mapping[str, str],
        checkpoints: Mapping[Role, str],
    ) -> None:
        self._home = home
        self._cache = cache
        self._digests = new.run_digests
        self._look = look
        self._by_role: dict[str, str] = {role: digest for role, digest in checkpoints.items()}
        self._answers = {(run_digests.get(a.suite, ""), a.checkpoint): a for a in look.answers}
        self._runs: dict[str, EvidenceRun | EvidenceError] = {}
        self._unchanged: dict[str, bool] = {}

    def __getitem__(self, key: tuple[str, str]) -> EvidenceRun:
        """The run of (role or checkpoint digest, suite name of the new policy).

        Raises:
            KeyError: nobody answered that, as mappings have it.
            EvidenceError: whatever reading the run refuses.
        """
        role, suite = key
        checkpoint = self._by_role.get(role, role)
        return self._read(self._answers[self._digests.get(suite, "no such suite"), checkpoint])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        names = {digest: name for name, digest in self._digests.items()}
        return ((checkpoint, names[suite]) for suite, checkpoint in self._answers if suite in names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def table(self, gate: EvalGate, inputs: GateInputs) -> ScoreTable:
        """The gate's score table, from the cache if the evidence is what it was made from."""
        candidate = self._answer(self._look.candidate, gate.suite, "candidate")
        reference = None if gate.against is None else self._reference(gate, gate.against)
        key = table_key(
            candidate.evidence, None if reference is None else reference.evidence, gate.metric, gate.group_by
        )
        answers = [candidate] if reference is None else [candidate, reference]
        if all(self._is_unchanged(answer) for answer in answers):
            kept = self._cache.table(key)
            if kept is not None:
                return kept
        for answer in answers:
            self._read(answer)
        try:
            made = table_from_runs(gate, inputs)
        except EvidenceError as refusal:
            self._cache.keep(key, refusal)
            raise
        self._cache.keep(key, made)
        return made

    def _is_unchanged(self, answer: Answer) -> bool:
        if answer.evidence not in self._unchanged:
            self._unchanged[answer.evidence] = self._cache.is_unchanged(answer.evidence, self._home / answer.path)
        return self._unchanged[answer.evidence]

    def _reference(self, gate: EvalGate, against: Role) -> Answer:
        digest = self._look.anchors.get(gate.id) if against == "anchor" else None
        digest = digest or self._by_role.get(against)
        if digest is None:
            raise EvidenceError("gate.no-checkpoint", f"there is no {against} to compare with")
        return self._answer(digest, gate.suite, against)

    def _answer(self, checkpoint: str, suite: str, role: str) -> Answer:
        found = self._answers.get((self._digests.get(suite, "no such suite"), checkpoint))
        if found is None:
            raise EvidenceError(
                "simulate.not-stored",
                f"the {role} did not answer this suite {suite!r} in that look, so it cannot be replayed",
                got=", ".join(sorted({a.suite for a in self._look.answers})) or "no evidence",
                expected=self._digests.get(suite, ""),
            )
        return found

    def _read(self, answer: Answer) -> EvidenceRun:
        if answer.evidence not in self._runs:
            try:
                self._runs[answer.evidence] = self._read_from_disk(answer)
            except EvidenceError as refusal:
                self._runs[answer.evidence] = refusal
        run = self._runs[answer.evidence]
        if isinstance(run, EvidenceError):
            raise run
        return run

    def _read_from_disk(self, answer: Answer) -> EvidenceRun:
        directory = self._home / answer.path
        before = state_of_records(directory)
        run = read_run(directory, expect_checkpoint=answer.checkpoint)
        if run.manifest.evidence_digest != answer.evidence:
            raise EvidenceError(
                "evidence.not-recorded",
                f"the run in {answer.path} is not the one that was recorded",
                got=run.manifest.evidence_digest,
                expected=answer.evidence,
                fix="restore the evidence from a copy",
            )
        self._cache.remember(answer.evidence, before, run.manifest.records_sha256)
        self._unchanged[answer.evidence] = True
        return run


class StoredFacts(Mapping[Role, CheckpointFacts]):
    """Described when they are asked for: most simulations change no gate that reads files."""

    def __init__(self, checkpoints: Mapping[Role, str], facts_of: FactsOf | None) -> None:
        self._checkpoints = checkpoints
        self._facts_of = facts_of

    def __getitem__(self, role: Role) -> CheckpointFacts:
        if self._facts_of is None:
            raise EvidenceError("simulate.not-stored", f"the files of the {role} cannot be described here")
        return self._facts_of(self._checkpoints[role])

    def __iter__(self) -> Iterator[Role]:
        return iter(self._checkpoints)

    def __len__(self) -> int:
        return len(self._checkpoints)
