"""What a text gained over another: the added words, as a reader would mark them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from pytest_tokenbudget.sequences import common_ends
from pytest_tokenbudget.sources.words import words_of

_CELLS = 1_000_000
"""Above this product of lengths `SequenceMatcher`, which is quadratic at worst, is left out."""
_NEAR = 3
"""Added words this near to each other are one addition."""
_SENTENCE_ENDS = frozenset(".!?:;。！？")

Span = tuple[int, int]
"""Half-open range of words."""


def added_spans(was: str, now: str) -> list[Span]:
    """The ranges of the words of `now` that `was` does not have there; of a pure removal, none.

    First by lines, then by words inside lines that were replaced, so that a sentence added to a long line
    is told apart from that line.
    """
    old, new = _line_words(was), _line_words(now)
    starts = [0]
    for line in new:
        starts.append(starts[-1] + len(line))
    spans: list[Span] = []
    for i, j, k, m in replaced(old, new):
        before = [word for line in old[i:j] for word in line]
        after = [word for line in new[k:m] for word in line]
        fresh = _word_spans(before, after) if before else [(0, len(after))]
        spans += [(starts[k] + start, starts[k] + end) for start, end in _merged(fresh)]
    return spans


def _line_words(text: str) -> list[tuple[str, ...]]:
    return [line for line in (tuple(words_of(line)) for line in text.splitlines()) if line]


def _word_spans(old: list[str], new: list[str]) -> list[Span]:
    spans = [(k, m) for _, _, k, m in replaced(old, new) if m > k]
    return [_at_sentence_start(new, start, end) for start, end in spans]


def replaced(
    old: Sequence[tuple[str, ...]] | Sequence[str], new: Sequence[tuple[str, ...]] | Sequence[str]
) -> Iterator[tuple[int, int, int, int]]:
    """The ranges old[i:j] that became new[k:m]; of two long ones all that stands between what both share."""
    head, tail = common_ends(old, new)
    i, j, k, m = head, len(old) - tail, head, len(new) - tail
    if i == j or k == m or (j - i) * (m - k) > _CELLS:
        if i < j or k < m:
            yield i, j, k, m
        return
    matcher = SequenceMatcher(None, old[i:j], new[k:m], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield i + a, i + b, k + c, k + d


def _at_sentence_start(words: list[str], start: int, end: int) -> Span:
    """Slide an addition left over equal words, to where its sentence begins.

    "A b. **A c.** A d." and "A b. A **c. A** d." are the same difference; the first is how it was written.
    """
    left, right = start, end
    while left > 0 and words[left - 1] == words[right - 1] and words[left - 1] not in _SENTENCE_ENDS:
        left, right = left - 1, right - 1
    return (left, right) if left == 0 or words[left - 1] in _SENTENCE_ENDS else (start, end)


def _merged(spans: list[Span]) -> Iterator[Span]:
    current: Span | None = None
    for start, end in spans:
        if start == end:
            continue
        if current and start - current[1] <= _NEAR:
            current = (current[0], end)
        else:
            if current:
                yield current
            current = (start, end)
    if current:
        yield current
