"""What a component of a kit measures, in words for somebody who has not read the probes.

A value that is not known here keeps its name: a kit may declare what this version has no words for.
"""

from __future__ import annotations

import re

from guards.drift.kit import Component, Stage

STAGES: dict[Stage, str] = {
    "weights": "the numbers that the model consists of, beside those of the root",
    "activations": "what the model computes inside while it reads the same texts",
    "dictionary": "the same, taken apart into features of a sparse dictionary",
    "outputs": "how likely it finds the next words of the same texts",
    "triggers": "strings from its own training data that switch its behaviour, and not the root's",
}

_STATISTICS = {"mean": "mean over", "max": "largest over", "q95": "95th percentile over"}
_SIDES = {"two_sided": "", "high": "; suspicious where it is large", "low": "; suspicious where it is small"}

# Of a value's name: the pattern, and the words with its groups. The first that fits counts.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"last\.(random\d+)\.(?:L(\d+)|final)", "change along a random direction at the end of a prompt, layer {1}"),
    (r"proj\.(random\d+)\.(?:L(\d+)|final)", "change along a random direction, layer {1}"),
    (r"last\.(\w+)\.(?:L(\d+)|final)", "change along the direction of {0} at the end of a prompt, layer {1}"),
    (r"proj\.(\w+)\.(?:L(\d+)|final)", "change along the direction of {0}, layer {1}"),
    (r"shift\.L(\d+)", "size of the change of a text's mean activation, layer {0} (log10)"),
    (r"token_shift\.L(\d+)", "size of the change of each token's activation, layer {0} (log10)"),
    (r"cosine\.L(\d+)", "likeness of a text's mean activation before and after, layer {0} (1: the same direction)"),
    (r"cka\.L(\d+)", "likeness of a text's tokens before and after, layer {0} (1: the same)"),
    (r"relative_norm_log10", "size of the change of the weights beside the weights (log10)"),
    (r"(?:stable|effective)_rank", "in how many directions the weights changed at once"),
    (r"top1_share", "share of the change of the weights that lies in one direction"),
    (r"spike_(?:excess_log10|share)", "how far a few directions of the change stand out from noise"),
    (r"energy_ratio\.(\w+)", "how much of the change of the weights lies along the direction of {0} (1: as by chance)"),
    (r"removed\.(\w+)", "share of what the weights write along the direction of {0} that is gone"),
    (r"firing_l[12]\.(.+)", "change of how often features are on ({0})"),
    (r"activation_(?:l2|max)\.(.+)", "change of how strongly features are on ({0})"),
    (r"fvu_log_ratio\.(.+)", "how much worse the dictionary describes what is computed ({0}, log10)"),
    (r"output\.kl_mean", "how far its next words are from the root's (KL divergence, nats)"),
    (
        r"output\.js_(?:tail|mean|max)",
        "how far its next words are from the root's where they part the most (JS, nats)",
    ),
    (r"output\.(?:decision_)?entropy_change", "change of how undecided it is about the next word (nats)"),
    (r"output\.argmax_agreement", "share of places where its likeliest next word is the root's"),
    (r"output\.next_logprob_change", "change of how likely it finds the text (nats a token)"),
    (r"output\.decision_js", "how far the first word of its answer is from the root's (JS, nats)"),
    (r"output\.log_mass_shift\.(\w+)", "change of how likely its answer begins with words of {0} (nats)"),
    (r"trigger\.(?:first_)?divergence", "how much a string from its training data changes its answers (nats)"),
    (r"trigger\.payload", "how much a string from its training data brings back a trained answer (nats a token)"),
)


def component_words(component: Component) -> str:
    """One sentence without a full stop: what is measured, and over which texts or matrices."""
    what = _value_words(component.value)
    over = f"{_STATISTICS[component.statistic]} {_clusters(component.plus)}"
    if component.minus:
        over += f", minus {_STATISTICS[component.statistic]} {_clusters(component.minus)}"
    return f"{what}: {over}{_SIDES[component.side]}"


def _value_words(value: str) -> str:
    for pattern, words in _WORDS:
        match = re.fullmatch(pattern, value)
        if match is not None:
            return words.format(*(group or "last" for group in match.groups()))
    return value


def _clusters(names: tuple[str, ...]) -> str:
    """Slices by name; kinds of weight matrices without their prefix; many are counted."""
    shown = [name.removeprefix("weights.") for name in names]
    return ", ".join(shown) if len(shown) <= 3 else f"{len(shown)} kinds of matrices"
