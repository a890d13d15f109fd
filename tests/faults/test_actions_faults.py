"""Named faults around the champion: each is refused with its rule, and leaves a log that verifies."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from guards import actions, ledger
from guards.actions import promotion
from guards.errors import StairlockError
from guards.store import Store
from tests.store_world import World, make_world, rule_of

FORK = multiprocessing.get_context("fork")
TIMEOUT_S = 120


def ready(world: World, name: str) -> str:
    """A candidate that could be promoted now."""
    candidate = world.seal(name)
    world.gate(candidate)
    if world.policy.policy.approvals.required:
        world.sign(candidate, "ana")
        world.sign(candidate, "bo")
    return candidate


def unchanged(world: World, action: Callable[[], object]) -> str:
    """The rule by which ``action`` is refused, having written nothing."""
    before = world.store.verify()
    rule = rule_of(action)
    assert world.store.verify() == before
    return rule


# Champion changed during a gate run


def test_champion_changed_before_the_decision(sandbox: World):
    slow = sandbox.seal("slow")
    draw = sandbox.draw(slow)
    sandbox.record_all_evidence(draw)
    fast = sandbox.promoted("fast")
    actions.record_verdicts(sandbox.store, candidate=slow, verdicts=sandbox.verdicts("pass"), actor="runner")

    def decide() -> object:
        return actions.record_decision(sandbox.store, candidate=slow, actor="runner")

    assert unchanged(sandbox, decide) == "actions.champion-changed"
    assert sandbox.champion() == fast


def test_champion_changed_between_decision_and_promotion(sandbox: World):
    slow = ready(sandbox, "slow")
    fast = sandbox.promoted("fast")
    assert unchanged(sandbox, lambda: sandbox.promote("slow")) == "actions.champion-changed"
    assert sandbox.champion() == fast
    # The way on is another look, against the champion in use.
    assert sandbox.gate(slow).body.champion == fast
    sandbox.promote("slow")
    assert sandbox.champion() == slow


def test_champion_rolled_back_during_a_gate_run(sandbox: World):
    sandbox.promoted("first")
    ready(sandbox, "second")
    actions.rollback(
        sandbox.store,
        to=sandbox.checkpoint("root"),
        checkpoint_dir=sandbox.directories["root"],
        reason="it lied",
        actor="ana",
    )
    assert unchanged(sandbox, lambda: sandbox.promote("second")) == "actions.champion-changed"


# Two promotions at once


def pause_after_verification(monkeypatch: pytest.MonkeyPatch, pause: Callable[[], object]) -> None:
    """Both promotions pass their first checks before either takes effect: the worst moment there is."""
    verify = promotion.verify_checkpoint

    def verify_then_pause(*arguments: Any) -> object:
        manifest = verify(*arguments)
        pause()
        return manifest

    monkeypatch.setattr(promotion, "verify_checkpoint", verify_then_pause)


def attempt(world: World, name: str, champion: str) -> str:
    try:
        world.promote(name, champion_expected=champion)
    except StairlockError as refusal:
        return refusal.rule
    return "promoted"


def test_two_promotions_at_once_by_threads(world: World, monkeypatch: pytest.MonkeyPatch):
    candidates = {name: ready(world, name) for name in ("one", "two")}
    barrier = threading.Barrier(2)
    pause_after_verification(monkeypatch, lambda: barrier.wait(TIMEOUT_S))
    root = world.checkpoint("root")
    results: dict[str, str] = {}

    def run(name: str) -> None:
        results[name] = attempt(world, name, root)

    threads = [threading.Thread(target=run, args=(name,)) for name in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    check_one_won(world, candidates, results)


def test_two_promotions_at_once_by_processes(world: World, monkeypatch: pytest.MonkeyPatch):
    candidates = {name: ready(world, name) for name in ("one", "two")}
    check_one_won(world, candidates, promote_in_processes(world, monkeypatch, ["one", "two"]))


def test_the_same_promotion_at_once_by_processes_happens_once(world: World, monkeypatch: pytest.MonkeyPatch):
    candidate = ready(world, "one")
    assert promote_in_processes(world, monkeypatch, ["one", "one"]) == {"one": "promoted"}
    assert world.kinds().count("promoted") == 1
    assert world.champion() == candidate
    world.store.verify()


def promote_in_processes(world: World, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> dict[str, str]:
    barrier = FORK.Barrier(len(names))
    pause_after_verification(monkeypatch, lambda: barrier.wait(TIMEOUT_S))
    results = FORK.SimpleQueue()
    root = world.checkpoint("root")

    def run(name: str) -> None:
        world.store = Store.open(world.store.home, clock=world.clock)
        results.put((name, attempt(world, name, root)))

    world.store.close()  # SQLite's locks do not survive a fork
    processes = [FORK.Process(target=run, args=(name,)) for name in names]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in names)
    for process in processes:
        process.join(TIMEOUT_S)
    return found


def check_one_won(world: World, candidates: dict[str, str], results: dict[str, str]) -> None:
    assert sorted(results.values()) == ["actions.champion-changed", "promoted"]
    winner = next(name for name, result in results.items() if result == "promoted")
    assert world.champion() == candidates[winner]
    assert world.kinds().count("promoted") == world.kinds().count("promote") == 1
    world.store.verify()


# Evidence of another checkpoint; evidence that changed


def test_evidence_of_another_checkpoint(world: World):
    draw = world.draw(world.seal("one"))
    borrowed = world.run_directory(draw, "candidate", world.checkpoint("root"))

    def record() -> None:
        world.record_evidence(draw, "candidate", borrowed)

    assert unchanged(world, record) == "evidence.other-checkpoint"


def test_evidence_of_another_look_at_the_same_candidate(world: World):
    candidate = world.seal("one")
    good_day = world.run_directory(world.draw(candidate), "candidate", candidate)
    world.gate(candidate, "inconclusive")
    second = world.draw(candidate)

    def record() -> None:
        world.record_evidence(second, "candidate", good_day)

    assert unchanged(world, record) == "actions.other-draw"


def test_half_written_evidence(world: World):
    draw = world.draw(world.seal("one"))
    directory = world.run_directory(draw, "candidate", draw.candidate)
    (directory / "manifest.json").unlink()

    def record() -> None:
        world.record_evidence(draw, "candidate", directory)

    assert unchanged(world, record) == "evidence.no-manifest"


@pytest.mark.parametrize("name", ["records.jsonl", "texts.jsonl"])
def test_evidence_edited_after_it_was_signed(world: World, name: str):
    ready(world, "one")
    (edited,) = world.store.home.glob(f"evidence/*/candidate-refusal/{name}")
    edited.write_bytes(edited.read_bytes().replace(b"0", b"1", 1))
    assert unchanged(world, lambda: world.promote("one")) == "evidence.digest-mismatch"


def test_evidence_replaced_by_another_good_run(sandbox: World):
    candidate = sandbox.seal("one")
    draw = sandbox.draw(candidate)
    better = sandbox.run_directory(draw, "candidate", candidate, n_right=10)
    recorded = sandbox.run_directory(draw, "candidate", candidate, n_right=9)
    sandbox.gate(candidate)
    shutil.rmtree(recorded)
    better.rename(recorded)
    assert unchanged(sandbox, lambda: sandbox.promote("one")) == "actions.evidence-changed"


def test_approvals_are_void_when_the_evidence_changed(world: World):
    candidate = ready(world, "one")
    envelopes = [world.envelope(candidate, name) for name in ("ana", "bo")]
    world.gate(candidate)  # another look: other items, other evidence, the same verdicts
    assert unchanged(world, lambda: world.promote("one")) == "actions.not-approved"
    for envelope in envelopes:

        def sign_again(signed: bytes = envelope) -> object:
            return actions.sign_off(world.store, envelope=signed, actor="eve", roles=world.roles)

        assert unchanged(world, sign_again) == "actions.other-triple"
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    world.promote("one")


# A file added to a sealed checkpoint


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("modeling_llama.py", "import os", "manifest.remote-code"),
        ("pytorch_model.bin", "x", "manifest.pickle"),
        ("notes.txt", "harmless", "manifest.unknown-file"),
        ("generation_config.json", '{"temperature": 2.0}', "manifest.digest-mismatch"),
        ("tokenizer_config.json", '{"chat_template": "obey"}', "manifest.digest-mismatch"),
    ],
)
def test_a_file_added_to_a_sealed_checkpoint(world: World, name: str, content: str, rule: str):
    ready(world, "one")
    (world.directories["one"] / name).write_text(content)
    assert unchanged(world, lambda: world.promote("one")) == rule
    assert world.champion() == world.checkpoint("root")


def test_weights_changed_after_the_seal(world: World):
    ready(world, "one")
    weights = world.directories["one"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert unchanged(world, lambda: world.promote("one")) == "manifest.digest-mismatch"


def test_a_past_champion_whose_files_changed_does_not_come_back(sandbox: World):
    sandbox.promoted("one")
    (sandbox.directories["root"] / "generation_config.json").write_text("{}")

    def rollback() -> object:
        return actions.rollback(
            sandbox.store,
            to=sandbox.checkpoint("root"),
            checkpoint_dir=sandbox.directories["root"],
            reason="it lied",
            actor="ana",
        )

    assert unchanged(sandbox, rollback) == "manifest.digest-mismatch"


def test_another_checkpoint_in_its_place(world: World):
    ready(world, "one")
    world.checkpoint("two")
    swapped = world.directories["two"]
    assert unchanged(world, lambda: world.promote("one", checkpoint_dir=swapped)) == "manifest.digest-mismatch"


# What happens while the files are being checked


@pytest.mark.parametrize(
    ("interruption", "rule"),
    [
        (lambda w, c: actions.halt(w.store, reason="stop", actor="ana"), "actions.halted"),
        (lambda w, c: actions.recall(w.store, checkpoint=c, reason="it lied", actor="ana"), "actions.recalled"),
        (lambda w, c: w.sign(c, "cy", "reject"), "actions.not-approved"),
        (lambda w, c: w.clock.advance(hours=169), "actions.not-approved"),
        (lambda w, c: w.draw(c), "actions.not-decided"),
        (lambda w, c: w.gate(c), "actions.not-approved"),
        (lambda w, c: w.gate(c, "fail"), "actions.rejected"),
    ],
    ids=["halt", "recall", "objection", "expiry", "draw", "look", "failed look"],
)
def test_nothing_that_happens_meanwhile_is_missed(
    world: World, monkeypatch: pytest.MonkeyPatch, interruption: Callable[[World, str], object], rule: str
):
    candidate = ready(world, "one")
    pause_after_verification(monkeypatch, lambda: interruption(world, candidate))
    assert rule_of(lambda: world.promote("one")) == rule
    assert world.champion() == world.checkpoint("root")
    world.store.verify()


def test_another_look_that_would_pass_is_still_not_the_one_that_was_checked(
    sandbox: World, monkeypatch: pytest.MonkeyPatch
):
    candidate = ready(sandbox, "one")
    pause_after_verification(monkeypatch, lambda: sandbox.gate(candidate))
    assert rule_of(lambda: sandbox.promote("one")) == "actions.evidence-changed"
    assert sandbox.champion() == sandbox.checkpoint("root")


# Disk full while writing


def limit_pages(store: Store, n_more: int) -> Callable[[], None]:
    """Let the database grow by ``n_more`` pages only; SQLite then refuses as it does on a full disk."""
    limit = 0

    def on_connect(connection: Any, _record: object) -> None:
        if limit:
            connection.execute(f"PRAGMA max_page_count = {limit}")

    store.close()
    with store._engine.connect() as conn:
        limit = int(conn.exec_driver_sql("PRAGMA page_count").scalar_one()) + n_more
    event.listen(store._engine, "connect", on_connect)
    store.close()

    def free() -> None:
        event.remove(store._engine, "connect", on_connect)
        store.close()

    return free


def test_disk_full_while_writing(sandbox: World):
    draw = sandbox.draw(sandbox.seal("one"))
    sandbox.record_all_evidence(draw)
    long = [v.model_copy(update={"reason": "so it is " * 2000}) for v in sandbox.verdicts("pass")]

    def record() -> object:
        return actions.record_verdicts(sandbox.store, candidate=draw.candidate, verdicts=long, actor="runner")

    # Room for the first verdict's entry, but not for the second: neither may stay.
    free = limit_pages(sandbox.store, 7)
    assert unchanged(sandbox, record) == "store.disk-full"
    assert "verdict" not in sandbox.kinds()
    free()
    record()
    assert sandbox.kinds().count("verdict") == 2
    sandbox.store.verify()
    actions.record_decision(sandbox.store, candidate=draw.candidate, actor="runner")
    sandbox.promote("one")


def test_disk_full_while_promoting(world: World):
    candidate = ready(world, "one")
    actions.start_run(world.store, run="filler", config=candidate, plan={}, actor="runner")
    free = limit_pages(world.store, 0)
    for n_bytes in (4000, 1000, 100, 1):  # fill every gap that an entry could still go into
        with pytest.raises(StairlockError) as refusal:
            for i in range(1000):
                figures = {"filling": "x" * n_bytes}
                actions.record_measured(
                    world.store, run="filler", name=f"{n_bytes}-{i}", figures=figures, actor="runner"
                )
        assert refusal.value.rule == "store.disk-full"
    assert unchanged(world, lambda: world.promote("one")) == "store.disk-full"
    assert world.champion() == world.checkpoint("root")
    free()
    world.promote("one")
    assert world.champion() == candidate


def test_file_size_limit_while_writing(sandbox: World):
    """The operating system refuses the write itself, as on a full disk."""
    ready(sandbox, "one")
    results = FORK.SimpleQueue()

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sandbox.store = Store.open(sandbox.store.home, clock=sandbox.clock)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        results.put(attempt(sandbox, "one", sandbox.checkpoint("root")))

    before = sandbox.store.head()
    sandbox.store.close()
    process = FORK.Process(target=run)
    process.start()
    assert results.get() == "store.disk-full"
    process.join(TIMEOUT_S)
    assert sandbox.store.verify() == before
    sandbox.promote("one")


# Killed between any two instructions


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(world: World, moment: str, scenario: Callable[[World], object]) -> bool:
    """Run the scenario in a process that is killed at its first new entry's commit; False if it ran to its end.

    Going on with a killed step is no news: it begins another attempt each time, and would be killed there for ever.
    """

    def run() -> None:
        world.store = Store.open(world.store.home, clock=world.clock)
        has_written = False
        append = ledger.append
        began_before = "step_started" in world.kinds()

        def noting_append(*arguments: Any, **named: Any) -> object:
            nonlocal has_written
            has_written = has_written or not (named["kind"] == "step_started" and began_before)
            return append(*arguments, **named)

        ledger.append = noting_append  # this process ends here, and takes the patch with it
        die_if_written = lambda *_: die() if has_written else None  # noqa: E731
        event.listen(world.store._engine, {"before": "commit", "after": "checkin"}[moment], die_if_written)
        scenario(world)

    world.store.close()
    process = FORK.Process(target=run)
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def whole_way(world: World) -> None:
    """A run as the loop makes it, from its start to a promotion; everything in it may be done twice."""
    digest = world.checkpoint("one")
    actions.start_run(world.store, run="r", config=digest, plan={}, actor="runner")
    step = actions.start_step(world.store, spec=digest, step="train", run="r", actor="runner")
    actions.finish_step(world.store, spec=digest, attempt=step.number, outcome="done", outputs=digest, actor="runner")
    candidate = world.seal("one")
    world.gate(candidate, run="r")
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    world.promote("one", champion_expected=world.checkpoint("root"))
    actions.finish_run(world.store, run="r", outcome="done", summary={}, actor="runner")


def but_later_attempts(world: World) -> list[str]:
    """The kinds of all entries, without those by which a killed step began once more."""
    kinds = world.kinds()
    return [kind for at, kind in enumerate(kinds) if kind != "step_started" or kind not in kinds[:at]]


def test_killed_before_and_after_every_commit(world: World, tmp_path: Path):
    world.checkpoint("one")
    n_kills = 0
    while True:
        before, kinds = world.store.head(), but_later_attempts(world)
        killed = run_until_killed(world, "before", whole_way)
        world.store.verify(trusted_head=before)
        assert but_later_attempts(world) == kinds, "half of a transaction stayed"
        if not killed:
            break
        assert run_until_killed(world, "after", whole_way)
        world.store.verify(trusted_head=before)
        assert len(but_later_attempts(world)) > len(kinds), "a committed transaction was lost"
        n_kills += 2
    untouched = make_world(tmp_path / "untouched")
    untouched.set_root()
    whole_way(untouched)
    assert but_later_attempts(world) == untouched.kinds()
    # Killed after it began, and before it ended: the third attempt ended, and all three are in the log.
    assert world.kinds().count("step_started") == 3
    assert world.champion() == world.checkpoint("one")
    assert n_kills >= 2 * 15  # every transaction of the scenario was hit twice
