"""What the linter in guards asks of a suite, answered by the code that the loop itself reads suites with."""

from __future__ import annotations

from pathlib import Path

from guards.authoring.suite_facts import ItemFacts, SuiteFacts
from loop.suites import SEED_BYTES, draw_items, load_suite

# Mean log-likelihoods and their differences are in nats, without a bound; the probability of a token has one.
UNBOUNDED = frozenset({"mean_loglik_nats", "margin_nats"})
NOT_BINARY = UNBOUNDED | {"token_probability"}


def facts_of_suite(path: Path) -> SuiteFacts:
    """Metrics and items of the suite at ``path``.

    Raises:
        ConfigError, SuiteError: what :func:`loop.suites.load_suite` refuses.
    """
    suite = load_suite(path)
    items = tuple(ItemFacts(item.cluster, item.tags) for item in draw_items(suite, bytes(SEED_BYTES)))
    return SuiteFacts(
        metrics=suite.metrics,
        binary=frozenset(suite.metrics) - NOT_BINARY,
        unbounded=frozenset(suite.metrics) & UNBOUNDED,
        items=items,
        has_outputs=not suite.scored_by_likelihood,
    )
