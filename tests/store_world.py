"""A small world for store and action tests: a home with a clock, people, policies and tiny checkpoints.

Nothing is faked below the actions: checkpoints are real directories that the manifest accepts,
evidence is read back from disk, sign-offs are signed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import DecisionMade, DecisionOutcome, Logged, Promoted, Role, WaiverSigned
from guards.errors import StairlockError
from guards.gates.alpha import earlier_looks
from guards.gates.evaluate import evaluate_gates
from guards.gates.inputs import BudgetState, GateInputs
from guards.gates.table_verdict import threshold
from guards.gates.verdict import Verdict
from guards.manifest import CheckpointManifest, scan_checkpoint
from guards.policy import UNATTENDED, CompositeGate, EvalGate, Gate, ResolvedPolicy
from guards.roles import Person, Roles
from guards.signing import public_key_of, sign
from guards.store import Store
from guards.waivers import sign_waiver
from tests.gate_world import EVAL_GATE, FACTS, binary, make_policy, make_run

START = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)
GATES = (EVAL_GATE, {**EVAL_GATE, "id": "refusal-holds-over-time", "against": "anchor"})
DIGEST = "sha256:" + "0" * 64  # of nothing in particular
UNATTENDED_APPROVALS = {"required": 0, "unattended": UNATTENDED}


def rule_of(action: Callable[[], object]) -> str:
    """The rule by which ``action`` is refused; fails if it is not."""
    with pytest.raises(StairlockError) as refusal:
        action()
    return refusal.value.rule


@dataclass
class ManualClock:
    """Stands still until it is told to go on, so that entries have known times."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


def make_checkpoint(directory: Path, weight: int) -> Path:
    """A directory that the manifest accepts: one tensor of one byte, and the files that must be beside it."""
    directory.mkdir(parents=True)
    header = json.dumps({"weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    header += b" " * (-len(header) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes([weight]))
    (directory / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (directory / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    (directory / "tokenizer_config.json").write_text("{}")
    return directory


def person(name: str, *roles: str, key: Ed25519PrivateKey, accounts: Sequence[str] = ()) -> Person:
    return Person.model_validate(
        {
            "id": name,
            "name": name.title(),
            "roles": roles,
            "accounts": accounts,
            "keys": [public_key_of(key).model_dump()],
        }
    )


def passing(gate: Gate) -> Verdict:
    """A pass of this gate that contradicts neither its own figures nor its members."""
    bound = threshold(gate) + (-0.05 if gate.claim == "at_most" else 0.05) if isinstance(gate, EvalGate) else None
    members = tuple(passing(member) for member in gate.members) if isinstance(gate, CompositeGate) else ()
    return Verdict(gate_id=gate.id, kind=gate.kind, outcome="pass", reason="so it is", bound=bound, members=members)


@dataclass
class World:
    """One home and everything that tests do in it."""

    base: Path
    store: Store
    clock: ManualClock
    policy: ResolvedPolicy
    keys: dict[str, Ed25519PrivateKey]
    roles: Roles
    directories: dict[str, Path] = field(default_factory=dict)
    manifests: dict[str, CheckpointManifest] = field(default_factory=dict)

    def checkpoint(self, name: str) -> str:
        """Digest of the checkpoint of that name, made when it is first asked for."""
        if name not in self.manifests:
            self.directories[name] = make_checkpoint(self.base / "checkpoints" / name, len(self.manifests))
            self.manifests[name] = scan_checkpoint(self.directories[name])
        return self.manifests[name].digest

    def set_root(self, name: str = "root") -> str:
        digest = self.checkpoint(name)
        actions.record_policy(self.store, policy=self.policy, actor="runner")
        actions.adopt_policy(self.store, policy=self.policy.digest, actor="runner", roles=self.roles)
        actions.set_root(
            self.store,
            manifest=self.manifests[name],
            policy=self.policy.digest,
            evidence=[sha256_bytes(b"the root's evidence")],
            verdicts=[passing(gate) for gate in self.policy.policy.gates],
            actor="runner",
        )
        return digest

    def seal(self, name: str, **changes: Any) -> str:
        digest = self.checkpoint(name)
        arguments: dict[str, Any] = {
            "manifest": self.manifests[name],
            "provenance": {"recipe": "test", "learning_rate": 0.001},
            "policy": self.policy.digest,
            "trainer": "tess",
            "actor": "sam",
        }
        actions.seal_candidate(self.store, **(arguments | changes))
        return digest

    def draw(self, candidate: str, **changes: Any) -> actions.Draw:
        arguments: dict[str, Any] = {"policy": self.policy.digest, "actor": "runner"}
        return actions.draw_seed(self.store, candidate=candidate, **(arguments | changes))

    def run_directory(self, draw: actions.Draw, role: Role, checkpoint: str, n_right: int = 9, **changes: Any) -> Path:
        """A finished run of the suite ``refusal``, on disk, for this look."""
        where = self.store.home / "evidence" / f"{draw.look_seq}-{len(changes)}-{n_right}"
        made = {"checkpoint_digest": checkpoint, "draw_seed_digest": draw.seed_digest} | changes
        existing = where / f"{role}-refusal"
        if (existing / "manifest.json").exists():
            return existing
        return make_run(where, self.policy, role, binary(10, n_right), **made).directory

    def record_all_evidence(self, draw: actions.Draw, n_right: int = 9) -> None:
        with self.store.read() as history:
            root = history.root()
            anchor = history.anchor("refusal-holds-over-time")
        answered: list[tuple[Role, str | None]] = [
            ("candidate", draw.candidate),
            ("champion", draw.compared_with),
            ("root", None if root is None else root.body.checkpoint),
            ("anchor", anchor),
        ]
        for role, checkpoint in answered:
            if checkpoint is not None:
                self.record_evidence(draw, role, self.run_directory(draw, role, checkpoint, n_right))

    def record_evidence(self, draw: actions.Draw, role: Role, directory: Path) -> None:
        actions.record_evidence(self.store, candidate=draw.candidate, role=role, directory=directory, actor="runner")

    def verdicts(self, *outcomes: str, bound: float = -0.05) -> list[Verdict]:
        """One verdict per gate of the policy; the last outcome holds for the rest. Tests spend next to no alpha."""
        gates = self.policy.policy.gates
        padded = [*outcomes, *[outcomes[-1]] * len(gates)]
        return [
            Verdict.model_validate(
                {"gate_id": gate.id, "kind": gate.kind, "outcome": outcome, "reason": "so it is", "bound": bound}
                | ({"alpha": 1e-9} if gate.kind == "eval" else {})
            )
            for gate, outcome in zip(gates, padded, strict=False)
        ]

    def gate(self, candidate: str, *outcomes: str, bound: float = -0.05, **draw_changes: Any) -> Logged[DecisionMade]:
        """A whole look: draw, evidence, verdicts, decision."""
        draw = self.draw(candidate, **draw_changes)
        self.record_all_evidence(draw)
        verdicts = self.verdicts(*(outcomes or ("pass",)), bound=bound)
        actions.record_verdicts(self.store, candidate=candidate, verdicts=verdicts, actor="runner")
        return actions.record_decision(self.store, candidate=candidate, actor="runner", roles=self.roles)

    def envelope(
        self, candidate: str, signer: str, decision: Literal["approve", "reject"] = "approve", **changes: str
    ) -> bytes:
        """A sign-off of now; ``says_X`` changes the statement's field X before it is signed."""
        statement = actions.draft_statement(
            self.store, candidate=candidate, decision=decision, reason="I read the packet", signer=signer
        )
        said = {field.removeprefix("says_"): value for field, value in changes.items()}
        return sign(statement.model_copy(update=said), self.keys[signer])

    def sign(
        self, candidate: str, signer: str, decision: Literal["approve", "reject"] = "approve", **changes: str
    ) -> None:
        envelope = self.envelope(candidate, signer, decision, **changes)
        actions.sign_off(self.store, envelope=envelope, actor=signer, roles=self.roles)

    def waiver(
        self,
        candidate: str,
        signer: str,
        gate: str = GATES[0]["id"],
        decision: Literal["grant", "reject"] = "grant",
        *,
        days: float = 2,
        **changes: str,
    ) -> bytes:
        """A signed waiver of now, or an objection; ``says_X`` changes the statement's field X before it is signed."""
        is_grant = decision == "grant"
        statement = actions.draft_waiver(
            self.store,
            candidate=candidate,
            gate=gate,
            decision=decision,
            reason="the suite is being repaired",
            signer=signer,
            ticket="T-1" if is_grant else None,
            expires=self.clock.now + timedelta(days=days) if is_grant else None,
        )
        said = {field.removeprefix("says_"): value for field, value in changes.items()}
        return sign_waiver(statement.model_copy(update=said), self.keys[signer])

    def waive(self, candidate: str, signer: str, *words: Any, **changes: Any) -> Logged[WaiverSigned]:
        """Sign what :meth:`waiver` says, and record it."""
        envelope = self.waiver(candidate, signer, *words, **changes)
        return actions.waive(self.store, envelope=envelope, actor=signer, roles=self.roles)

    def promote(self, name: str, **changes: Any) -> Logged[Promoted]:
        with self.store.read() as history:
            champion = history.champion()
        arguments: dict[str, Any] = {
            "champion_expected": champion,
            "checkpoint_dir": self.directories[name],
            "roles": self.roles,
            "actor": "runner",
        }
        return actions.promote(self.store, candidate=self.checkpoint(name), **(arguments | changes))

    def promoted(self, name: str, **changes: Any) -> str:
        """A candidate that goes the whole way."""
        candidate = self.seal(name, **changes)
        self.gate(candidate)
        if self.policy.policy.approvals.required:
            self.sign(candidate, "ana")
            self.sign(candidate, "bo")
        self.promote(name)
        return candidate

    def champion(self) -> str | None:
        with self.store.read() as history:
            return history.champion()

    def kinds(self) -> list[str]:
        with self.store.read() as history:
            return [entry.kind for entry in history.entries()]

    def outcome(self, candidate: str) -> DecisionOutcome:
        with self.store.read() as history:
            look = history.latest_look(candidate)
            assert look is not None
            decision = history.decision(look.seq)
            assert decision is not None
            return decision.body.outcome


def make_world(base: Path, *, approvals: dict[str, Any] | None = None, **policy_changes: Any) -> World:
    """A home in ``base``. Ana may review, Bo keeps safety, Tess (who trains) and Sam (who submits) may review too."""
    clock = ManualClock()
    keys = {name: Ed25519PrivateKey.generate() for name in ("ana", "bo", "cy", "tess", "sam")}
    roles = Roles(
        schema="stairlock/roles/v1",
        people=(
            person("ana", "reviewer", key=keys["ana"]),
            person("bo", "safety", "reviewer", key=keys["bo"]),
            person("cy", "governance", key=keys["cy"]),
            person("tess", "reviewer", "safety", key=keys["tess"], accounts=("t.trainer",)),
            person("sam", "reviewer", "safety", key=keys["sam"]),
        ),
    )
    if approvals is not None:
        policy_changes["approvals"] = approvals
    return World(
        base=base,
        store=Store.open(base / "home", create=True, clock=clock),
        clock=clock,
        policy=make_policy(base / "policy", *GATES, planned=8, **policy_changes),
        keys=keys,
        roles=roles,
    )


def other_policy(world: World, name: str = "test", **changes: Any) -> ResolvedPolicy:
    """Another policy, recorded: by default an edit of the world's."""
    policy = make_policy(world.base / f"policy-{len(changes)}-{name}", *GATES, planned=9, name=name, **changes)
    actions.record_policy(world.store, policy=policy, actor="runner")
    return policy


def rollback(world: World, name: str, **changes: Any) -> object:
    """Roll back to the checkpoint of that name."""
    arguments: dict[str, Any] = {"to": world.checkpoint(name), "checkpoint_dir": world.directories[name]}
    arguments |= {"reason": "it lied", "actor": "ana"} | changes
    return actions.rollback(world.store, **arguments)


def sealed_and_judged(
    world: World, name: str, scores: Sequence[float | None], champion_scores: Sequence[float | None]
) -> tuple[str, GateInputs]:
    """A candidate with its look, judged by the real gates of the world's policy; and what they were given."""
    candidate = world.seal(name)
    draw = world.draw(candidate)
    champion = str(draw.compared_with)
    runs = {}
    for role, checkpoint, one in (("candidate", candidate, scores), ("champion", champion, champion_scores)):
        where = world.store.home / "evidence" / f"look-{draw.look_seq}"
        made = {"checkpoint_digest": checkpoint, "draw_seed_digest": draw.seed_digest}
        run = make_run(where, world.policy, role, one, **made)
        world.record_evidence(draw, role, run.directory)
        runs[role, "refusal"] = run
    with world.store.read() as history:
        earlier = earlier_looks(history, world.policy.policy.name, draw.look)
    inputs = GateInputs(
        policy=world.policy,
        look=draw.look,
        earlier_looks=earlier,
        draw_seed_digest=draw.seed_digest,
        checkpoints={"candidate": candidate, "champion": champion, "root": champion, "anchor": champion},
        runs=runs,
        facts={"candidate": FACTS, "champion": FACTS},
        budget=BudgetState(cycles_without_person=1, cost_s=1.0, tokens_trained=1),
    )
    verdicts = evaluate_gates(inputs)
    actions.record_verdicts(world.store, candidate=candidate, verdicts=verdicts, actor="runner")
    actions.record_decision(world.store, candidate=candidate, actor="runner", roles=world.roles)
    return candidate, inputs
