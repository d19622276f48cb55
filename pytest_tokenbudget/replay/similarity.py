"""How alike two prompts are, by their words: sets made once, compared without reading the text again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

_CJK = "\u3040-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
"""A word, or one character of the scripts that put no space between words."""
_NOT_WORDS = frozenset({"data", "signature", "type", "id", "tool_use_id"})
_ALIKE = 0.5
_MOSTLY = 0.8


def words(contents: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The words of all texts in content blocks and tool definitions, folded to one case."""
    return frozenset(word for text in _texts(contents) for word in _WORD.findall(text.casefold()))


def cosine(one: AbstractSet[str], other: AbstractSet[str]) -> float:
    """The cosine similarity of two sets, 0 to 1: shared words over the geometric mean of the sizes."""
    if not one or not other:
        return 0.0
    return len(one & other) / math.sqrt(len(one) * len(other))


def alike(one: AbstractSet[str], other: AbstractSet[str]) -> bool:
    """Whether one text is a rewording of the other, or most of the smaller was kept in the larger.

    Unrelated English texts of a prompt's length share words up to a cosine of about 0.3.
    """
    return cosine(one, other) >= _ALIKE or holds(one, other) or holds(other, one)


def holds(text: AbstractSet[str], part: AbstractSet[str]) -> bool:
    """Whether a text has most of another one's words. False where that has none."""
    return bool(part) and len(text & part) >= _MOSTLY * len(part)


def is_rather(text: AbstractSet[str], one: AbstractSet[str], other: AbstractSet[str]) -> bool:
    """Whether a text says `one` and not `other`: no word that only `other` has, and half of `one`'s."""
    only_other, only_one = other - one, one - other
    return bool(only_other) and not text & only_other and 2 * len(text & only_one) >= len(only_one)


def _texts(contents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Every string but those of binary data and names of types. A loop: bodies may be nested deeply."""
    stack: list[object] = list(contents)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            stack.extend(item for key, item in value.items() if key not in _NOT_WORDS)
        elif isinstance(value, list):
            stack.extend(value)
