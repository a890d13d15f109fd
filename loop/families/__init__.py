"""Generated task families: a problem, its prompt in several wordings, and an exact verifier.

Read ``item.py`` for the words, then any one family, then ``draw.py`` for how items are drawn.
"""

from loop.families.draw import GENERATOR_VERSION, draw, half_of
from loop.families.item import Family, Half, Posed, TaskItem
from loop.families.registry import FAMILIES, family_named, question_templates

__all__ = [
    "FAMILIES",
    "GENERATOR_VERSION",
    "Family",
    "Half",
    "Posed",
    "TaskItem",
    "draw",
    "family_named",
    "half_of",
    "question_templates",
]
