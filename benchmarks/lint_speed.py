"""How long ``stairlock policy lint`` takes on a policy of 200 gates, after start-up.

``python -m benchmarks.lint_speed --out FILE``. The policy lies beside the shipped suites. Two are
measured: one whose gates repeat a few margins and alphas, as people write them, and one in which no
two gates have the same figures, so that nothing that was enumerated for one serves another. Every
repetition is a process's first lint but for the imports: nothing is cached between them.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from guards.authoring.policy_lint import lint_policy
from loop.suite_facts import facts_of_suite

POLICIES = Path(__file__).resolve().parents[1] / "policies"
# suite -> its metrics that lie in [0, 1], and the shares of its items that one gate reads
_METRICS = {"families": ("strict", "lenient", "format"), "refusal": ("refused",), "ordinary": ("answered",)}


def policy_text(n_gates: int, *, all_different: bool) -> str:
    """A policy of ``n_gates`` eval gates on three of the shipped suites."""
    pairs = [(suite, metric) for suite, metrics in _METRICS.items() for metric in metrics]
    gates: list[str] = []
    for index in range(n_gates):
        suite, metric = pairs[index % len(pairs)]
        step = index if all_different else index % 4
        margin, alpha = 0.1 + 0.0002 * step, 0.05 - 0.00002 * (index if all_different else 0)
        against = ("champion", "root", "anchor")[index // len(pairs) % 3]
        gates.append(
            f"  - id: gate-{index}\n"
            f"    description: Number {index} of {n_gates}.\n"
            "    kind: eval\n"
            f"    suite: {suite}\n"
            f"    metric: {metric}\n"
            "    claim: non_inferior_within\n"
            f"    margin: {margin:.4f}\n"
            f"    against: {against}\n"
            f"    alpha: {alpha:.5f}\n"
            "    min_items: 100\n"
            "    max_unscored: 0.02\n"
        )
    return (
        "schema: stairlock/policy/v1\nname: many-gates\ndescription: For measuring.\nlooks: {planned: 8}\nsuites:\n"
        + "".join(f"  {suite}: suites/{suite}.yaml\n" for suite in _METRICS)
        + "holdouts: {refusal: {reads: 8}, ordinary: {reads: 8}}\ngates:\n"
        + "\n".join(gates)
        + "approvals: {required: 2, roles: [reviewer, safety]}\n"
    )


def measure(path: Path, repetitions: int) -> dict[str, object]:
    """Wall and CPU seconds of each repetition, and what the lint said."""
    wall_s: list[float] = []
    cpu_s: list[float] = []
    report = lint_policy(path, facts_of_suite)
    for _ in range(repetitions):
        began, began_cpu = time.perf_counter(), time.process_time()
        report = lint_policy(path, facts_of_suite)
        wall_s.append(round(time.perf_counter() - began, 3))
        cpu_s.append(round(time.process_time() - began_cpu, 3))
    return {
        "wall_s": wall_s,
        "wall_s_median": statistics.median(wall_s),
        "cpu_s": cpu_s,
        "cpu_s_median": statistics.median(cpu_s),
        "n_errors": len(report.errors),
        "n_warnings": len(report.problems) - len(report.errors),
    }


def main() -> None:
    """Measure, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    result: dict[str, object] = {"n_gates": chosen.gates, "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(POLICIES / "suites", Path(folder) / "suites")
        for name, all_different in (("some_figures_repeat", False), ("all_figures_differ", True)):
            path = Path(folder) / f"{name}.yaml"
            path.write_text(policy_text(chosen.gates, all_different=all_different), encoding="utf-8")
            result[name] = measure(path, chosen.repetitions)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if chosen.out is not None:
        chosen.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
