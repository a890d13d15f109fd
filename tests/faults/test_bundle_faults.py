"""Named bad bundles of policies: each is refused, is in the log, and holds promotions until a good one comes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.actions import bundles
from guards.actions.bundles import InstalledBundle
from guards.actions.eligibility import policy_authors
from guards.canonical import canonical_bytes, sha256_bytes
from guards.durable import move_directory
from guards.entries import BundleReceived
from guards.errors import ActionRefused, StairlockError
from guards.ledger import timestamp
from guards.policy import ResolvedPolicy
from guards.policy_bundle import BUNDLE_PAYLOAD_TYPE, MAX_BUNDLE_BYTES, PolicyBundle, pack_policy, sign_bundle
from guards.signing import sign_payload
from tests.gate_world import make_policy, policy_body, write_policy
from tests.policy_edits import LOOSER, STRICTER, adopt, edit, in_force, sign_edit
from tests.store_world import GATES, World, rule_of

TIME = "2026-11-24T05:00:00.000000Z"


def bundle_of(
    world: World, gate: dict[str, Any] | None = None, *, author: str = "cy", time: str = TIME
) -> PolicyBundle:
    """The world's policy with other values in its first gate, packed by its author."""
    where = world.base / f"packed-{len(list(world.base.glob('packed-*')))}"
    policy = make_policy(where, {**GATES[0], **(gate or STRICTER)}, GATES[1], planned=8)
    return pack_policy(policy.source, author=author, time=time)


def held_world(world: World) -> None:
    """A candidate waits for nothing but its promotion, and a bad bundle holds it, since a minute after TIME."""
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    world.clock.advance(minutes=1)
    assert refused(world, b"not a bundle") == "bundle.bad-envelope"
    world.clock.advance(minutes=1)


def authors(world: World, policy: ResolvedPolicy) -> tuple[str, ...]:
    with world.store.read() as history:
        return policy_authors(history, policy.digest)


def signed(world: World, body: dict[str, Any], key: str = "cy", payload_type: str = BUNDLE_PAYLOAD_TYPE) -> bytes:
    """Any JSON, signed as a bundle."""
    return sign_payload(canonical_bytes(body), world.keys[key], payload_type=payload_type)


def install(world: World, data: bytes, lint: Callable[[ResolvedPolicy], list[str]] = lambda _: []) -> InstalledBundle:
    return actions.install_bundle(world.store, data=data, actor="runner", lint=lint, roles=world.roles)


def refused(world: World, data: bytes, lint: Callable[[ResolvedPolicy], list[str]] = lambda _: []) -> str:
    """The rule that the entry of the refused bundle names; the policy in force stays, and no file is left."""
    before, kept = in_force(world), sorted((world.store.home / "policies").rglob("*"))
    with pytest.raises(ActionRefused) as refusal:
        install(world, data, lint)
    assert refusal.value.rule == "actions.bad-bundle"
    with world.store.read() as history:
        latest = history.latest_bundle()
    assert latest is not None
    assert latest.body.bundle == sha256_bytes(data)
    assert (latest.body.outcome, latest.body.policy) == ("refused", None)
    assert in_force(world) == before
    assert sorted((world.store.home / "policies").rglob("*")) == kept
    world.store.verify(roles=[world.roles])
    return latest.body.reason.split("]")[0].removeprefix("[")


def changed(bundle: PolicyBundle, **changes: Any) -> dict[str, Any]:
    return {**bundle.model_dump(mode="json", by_alias=True), **changes}


def file(text: str) -> dict[str, str]:
    data = text.encode()
    return {"sha256": sha256_bytes(data), "content": base64.b64encode(data).decode()}


def test_a_good_bundle_is_unpacked_and_can_be_adopted(world: World):
    bundle = bundle_of(world)
    installed = install(world, sign_bundle(bundle, world.keys["cy"]))
    assert installed.policy.digest == bundle.policy_digest
    assert installed.path.is_relative_to(world.store.home / "policies")
    assert installed.entry.body.author == "cy"
    assert in_force(world) == world.policy.digest  # installing alone changes nothing
    adopt(world, installed.policy)
    assert in_force(world) == bundle.policy_digest
    world.store.verify(roles=[world.roles])


def test_the_same_bundle_again_is_the_entry_that_exists(world: World):
    data = sign_bundle(bundle_of(world), world.keys["cy"])
    assert install(world, data).entry == install(world, data).entry


def test_a_bundle_that_two_install_at_once(world: World):
    data = sign_bundle(bundle_of(world), world.keys["cy"])
    with ThreadPoolExecutor(4) as pool:
        installed = list(pool.map(lambda _: install(world, data), range(4)))
    assert len({one.entry.seq for one in installed}) == 1
    assert len({one.path for one in installed}) == 1


def test_a_policy_with_item_files_and_suites_elsewhere_is_packed_whole(tmp_path: Path):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "refusal.yaml").write_text("name: refusal\nitems: {file: ../items/r.jsonl}\n")
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "r.jsonl").write_text('{"id": "1"}\n')
    body = policy_body(
        *GATES,
        planned=8,
        suites={"refusal": "../suites/refusal.yaml", "tasks": "tasks.yaml"},
        holdouts={"refusal": {"reads": 4}},
    )
    bundle = pack_policy(write_policy(tmp_path / "team", body), author="cy", time=TIME)
    assert sorted(bundle.files) == ["items/r.jsonl", "suites/refusal.yaml", "team/policy.yaml", "team/tasks.yaml"]
    assert bundle.policy == "team/policy.yaml"


def test_a_bad_bundle_holds_promotions_until_a_good_one_comes(world: World):
    held_world(world)
    assert rule_of(lambda: world.promote("one")) == "actions.bad-bundle"
    install(world, sign_bundle(bundle_of(world, time=timestamp(world.clock.now)), world.keys["cy"]))
    world.promote("one")
    world.store.verify(roles=[world.roles])


def test_a_good_bundle_that_was_installed_before_lifts_no_hold(world: World):
    """Also where its author's clock was ahead, and whatever was done to the bytes around what was signed."""
    ahead = bundle_of(world, time="2026-11-24T05:04:00.000000Z")
    old = sign_bundle(ahead, world.keys["cy"])
    install(world, old)
    held_world(world)
    for data in (old, old + b"\n"):
        before = world.store.verify()
        assert rule_of(lambda data=data: install(world, data)) == "actions.old-bundle"
        assert world.store.verify() == before
    assert rule_of(lambda: world.promote("one")) == "actions.bad-bundle"


@pytest.mark.parametrize(
    ("time", "rule"),
    [
        (TIME, "actions.old-bundle"),
        ("2026-11-24T05:01:00.000000Z", "actions.old-bundle"),  # when the bad one came
        ("2026-11-24T05:07:00.000001Z", "actions.signed-in-future"),
    ],
)
def test_a_bundle_that_was_not_signed_since_lifts_no_hold(world: World, time: str, rule: str):
    kept_back = sign_bundle(bundle_of(world, time=time), world.keys["cy"])
    held_world(world)
    before, files = world.store.verify(), sorted((world.store.home / "policies").rglob("*"))
    assert rule_of(lambda: install(world, kept_back)) == rule
    assert (world.store.verify(), sorted((world.store.home / "policies").rglob("*"))) == (before, files)


@pytest.mark.parametrize("time", ["2026-11-24T05:01:00.000001Z", "2026-11-24T05:07:00.000000Z"])
def test_a_bundle_that_was_signed_since_lifts_the_hold(world: World, time: str):
    held_world(world)
    install(world, sign_bundle(bundle_of(world, time=time), world.keys["cy"]))
    world.promote("one")


def test_no_policy_comes_into_force_while_a_bad_bundle_holds(world: World):
    stricter = edit(world, STRICTER)
    held_world(world)
    assert rule_of(lambda: adopt(world, stricter)) == "actions.bad-bundle"
    assert adopt(world, world.policy).body.policy == world.policy.digest  # it is in force already
    install(world, sign_bundle(bundle_of(world, time=timestamp(world.clock.now)), world.keys["cy"]))
    adopt(world, stricter)
    world.store.verify(roles=[world.roles])


def test_who_installs_a_bundle_again_is_no_author(world: World):
    looser = sign_bundle(bundle_of(world, LOOSER, author="cy"), world.keys["cy"])
    first = install(world, looser)
    install(world, sign_bundle(bundle_of(world), world.keys["cy"]))  # another one in between
    world.roles = world.roles.model_copy(update={"services": ("runner",)})
    sign_edit(world, first.policy, "ana", "bo")
    for data in (looser, looser + b"\n"):
        again = actions.install_bundle(world.store, data=data, actor="ana", lint=lambda _: [], roles=world.roles)
        assert again.entry == first.entry
    assert authors(world, first.policy) == ("runner", "cy")
    assert adopt(world, first.policy, actor="runner").body.approvers == ("ana", "bo")


def test_a_looser_bundle_waits_for_approvals_as_any_edit(world: World):
    bundle = bundle_of(world, LOOSER, author="bo")
    installed = install(world, sign_bundle(bundle, world.keys["bo"]))
    world.roles = world.roles.model_copy(update={"services": ("runner",)})
    assert rule_of(lambda: adopt(world, installed.policy, actor="runner")) == "actions.looser-policy"
    assert rule_of(lambda: sign_edit(world, installed.policy, "bo")) == "actions.own-edit"  # Bo packed it
    sign_edit(world, installed.policy, "ana", "tess")
    assert adopt(world, installed.policy, actor="runner").body.approvers == ("ana", "tess")


def test_a_bundle_by_a_key_that_nobody_has(world: World):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    assert refused(world, sign_bundle(bundle_of(world), Ed25519PrivateKey.generate())) == "roles.unknown-key"


def test_a_bundle_by_a_person_without_the_role(world: World):
    assert refused(world, sign_bundle(bundle_of(world, author="ana"), world.keys["ana"])) == "bundle.author-role"


def test_a_bundle_in_another_persons_name(world: World):
    assert refused(world, sign_bundle(bundle_of(world, author="bo"), world.keys["cy"])) == "signing.other-signer"


def test_a_bundle_with_another_signature(world: World):
    envelope = json.loads(sign_bundle(bundle_of(world), world.keys["cy"]))
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    assert refused(world, json.dumps(envelope).encode()) == "signing.bad-signature"


def test_a_bundle_with_another_payload(world: World):
    envelope = json.loads(sign_bundle(bundle_of(world), world.keys["cy"]))
    other = canonical_bytes(changed(bundle_of(world, LOOSER)))
    envelope["payload"] = base64.b64encode(other).decode()
    assert refused(world, json.dumps(envelope).encode()) == "signing.bad-signature"


def test_a_signature_for_another_purpose(world: World):
    data = signed(world, changed(bundle_of(world)), payload_type="application/vnd.stairlock.signoff+json")
    assert refused(world, data) == "signing.other-type"


def test_a_file_that_is_not_what_its_digest_says(world: World):
    bundle = changed(bundle_of(world))
    bundle["files"]["refusal.yaml"]["content"] = base64.b64encode(b"items: []\n").decode()
    assert refused(world, signed(world, bundle)) == "bundle.bad-content"


def test_another_suite_than_the_one_that_was_signed_for(world: World):
    bundle = changed(bundle_of(world))
    bundle["files"]["refusal.yaml"] = file("name: refusal\nitems: [1]\n")
    assert refused(world, signed(world, bundle)) == "bundle.other-policy"


@pytest.mark.parametrize(
    "path",
    [
        "../outside.yaml",
        "/etc/outside.yaml",
        "a/../../outside.yaml",
        ".hidden",
        "a//b",
        "a\\b",
        "",
        "a/.git/config",
        "n" * 256,
        f"a/{'n' * 256}/b",
    ],
)
def test_a_path_that_leads_out(world: World, path: str):
    bundle = changed(bundle_of(world))
    bundle["files"][path] = file("x")
    assert refused(world, signed(world, bundle)) == "bundle.bad-content"
    assert not (world.store.home / "outside.yaml").exists()


def test_the_longest_name_that_a_disk_can_hold(world: World):
    bundle = changed(bundle_of(world))
    bundle["files"]["n" * 255] = file("x")
    assert (install(world, signed(world, bundle)).path.parent / ("n" * 255)).read_text() == "x"


def test_each_policy_has_a_folder_of_its_own(world: World):
    """Its whole digest: a beginning of it can be shared by two policies, on purpose."""
    installed = install(world, sign_bundle(bundle_of(world), world.keys["cy"]))
    folder = installed.path.relative_to(world.store.home / "policies").parts[0]
    assert f"sha256:{folder}" == installed.policy.digest


def test_files_that_change_on_the_way(world: World, monkeypatch: pytest.MonkeyPatch):
    def move(source: Path, target: Path) -> None:
        move_directory(source, target)
        path = target / "policy.yaml"
        path.write_text(path.read_text().replace('"margin": 0.05', '"margin": 0.5'))

    monkeypatch.setattr(bundles, "move_directory", move)
    before = world.store.verify()
    assert rule_of(lambda: install(world, sign_bundle(bundle_of(world), world.keys["cy"]))) == "bundle.other-policy"
    assert world.store.verify() == before


@pytest.mark.parametrize("path", ["Policy.yaml", "policy.yaml/below"])
def test_paths_that_some_disk_cannot_hold(world: World, path: str):
    bundle = changed(bundle_of(world))
    bundle["files"][path] = file("x")
    assert refused(world, signed(world, bundle)) == "bundle.bad-content"


def test_a_suite_outside_of_the_bundle(world: World):
    (world.base / "elsewhere.yaml").write_text("name: refusal\nitems: [1, 2]\n")
    body = policy_body(*GATES, planned=8, suites={"refusal": "../../../elsewhere.yaml", "tasks": "tasks.yaml"})
    bundle = changed(bundle_of(world))
    bundle["files"]["policy.yaml"] = file(json.dumps(body))
    assert refused(world, signed(world, bundle)) == "bundle.outside"


def test_a_suite_that_is_not_in_the_bundle(world: World):
    bundle = changed(bundle_of(world))
    del bundle["files"]["tasks.yaml"]
    assert refused(world, signed(world, bundle)) == "yaml.no-file"


def test_a_policy_that_is_not_in_the_bundle(world: World):
    assert refused(world, signed(world, changed(bundle_of(world), policy="other.yaml"))) == "bundle.bad-content"


def test_an_unknown_key(world: World):
    assert refused(world, signed(world, changed(bundle_of(world), extra=1))) == "bundle.bad-content"


def test_a_policy_with_a_typo(world: World):
    bundle = changed(bundle_of(world))
    text = base64.b64decode(bundle["files"]["policy.yaml"]["content"]).decode()
    bundle["files"]["policy.yaml"] = file(text.replace("margin", "magrin"))
    assert refused(world, signed(world, bundle)) == "yaml.unknown-key"


def test_a_policy_with_errors(world: World):
    data = sign_bundle(bundle_of(world), world.keys["cy"])
    assert refused(world, data, lambda _: ["3:1: [policy.cannot-pass] it cannot pass"]) == "bundle.lint"


def test_a_bundle_that_is_too_large(world: World):
    assert refused(world, b" " * (MAX_BUNDLE_BYTES + 1)) == "bundle.too-large"


def test_the_log_names_no_path_of_the_machine(world: World):
    bundle = changed(bundle_of(world))
    del bundle["files"]["tasks.yaml"]
    refused(world, signed(world, bundle))
    with world.store.read() as history:
        latest = history.latest_bundle()
    assert latest is not None
    assert str(world.base) not in latest.body.reason


def test_the_same_bad_bundle_again_is_one_entry(world: World):
    for _ in range(2):
        refused(world, b"not a bundle")
    with world.store.read() as history:
        received = [entry for entry in history.entries(kind="bundle") if isinstance(entry.body, BundleReceived)]
    assert len(received) == 1


def test_while_halted_nothing_is_installed(world: World):
    data = sign_bundle(bundle_of(world), world.keys["cy"])
    actions.halt(world.store, reason="wait", actor="ana")
    for one in (data, b"not a bundle"):
        assert rule_of(lambda one=one: install(world, one)) == "actions.halted"


def test_without_a_roles_file_no_bundle_can_be_judged(world: World):
    with pytest.raises(StairlockError) as refusal:
        actions.install_bundle(world.store, data=b"x", actor="runner", lint=lambda _: [])
    assert refusal.value.rule == "roles.no-file"
    with world.store.read() as history:
        assert history.latest_bundle() is None


def test_edits_after_installing_do_not_count(world: World):
    """The policy that is recorded is the one in the bundle; a file that is edited later is another policy."""
    installed = install(world, sign_bundle(bundle_of(world), world.keys["cy"]))
    installed.path.write_text(installed.path.read_text().replace("0.05", "0.5"))
    again = install(world, sign_bundle(bundle_of(world), world.keys["cy"]))
    assert again.policy.digest == installed.policy.digest
    assert edit(world, STRICTER).digest == installed.policy.digest
