"""Align a piece of a prompt with a file, word by word, across the holes of a template.

A hole is where a template is filled with a value. Which hole a value was filled into is decided by the few
words that stand next to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise

from pytest_tokenbudget.model import Source
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources.words import HOLE, Span, Words, word_spans

Gram = tuple[str, ...]
"""A run of words."""
_REMEMBERED = 20_000
"""Words of the largest file whose grams are kept; in a larger one each query searches anew."""
_GRAMS = (3, 2)
"""Words of the gram that a run begins from: three, or two if a template leaves no more in a row."""
_POSITIONS = 64
"""How many positions of one gram are tried: repeated boilerplate says nothing about the place."""
_RUNS = 256
"""How many of the longest runs are chained at most."""
_FAR = 120
"""Most words of a file between two runs of a chain: a template may leave out a paragraph, not a chapter."""
_GAP_COST = 1 / 20
"""What each word of a file between two runs costs, in matched words."""
_PLACEHOLDERS = frozenset({HOLE, "{", "}", "%", "$"})
"""The marks of a hole: in f-strings, str.format, Jinja and Mustache, `%`, string.Template."""


@dataclass(frozen=True)
class File:
    """A file of the repository as words, with the positions of its grams."""

    path: str
    text: Words

    @cached_property
    def _grams(self) -> dict[int, Mapping[Gram, Sequence[int]]]:
        return {}

    def grams(self, size: int, wanted: Collection[Gram]) -> Mapping[Gram, Sequence[int]]:
        """Return where (indices of words) each of the `wanted` runs of `size` words begins.

        For a file of usual length all runs are kept. For a long one they would take far more memory than its
        text.
        """
        if len(self.text.words) > _REMEMBERED:
            return _positions(self.text.words, size, wanted)
        if size not in self._grams:
            self._grams[size] = _positions(self.text.words, size)
        return self._grams[size]

    def shared(self, wanted: Set[Gram], size: int) -> int:
        """Return how many of the `wanted` runs of `size` words the file holds."""
        return len(wanted & self.grams(size, wanted).keys())

    def without(self, start: int, end: int) -> File:
        """Return the same file with a range of words blotted out, so that they match nothing."""
        words = [*self.text.words[:start], *("\1" for _ in range(start, end)), *self.text.words[end:]]
        return File(self.path, Words(words, self.text.lines))


@dataclass(frozen=True, slots=True)
class _Run:
    query: int
    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Words of a query that were found in a file, in order. Spans are ranges of the query's words."""

    file: File
    runs: tuple[_Run, ...]

    @property
    def matched(self) -> int:
        """How many words of the query were found."""
        return sum(run.length for run in self.runs)

    @property
    def longest(self) -> int:
        """How many words the longest run has."""
        return max(run.length for run in self.runs)

    @property
    def extent(self) -> Span:
        """The range of the file's words from the first run to the last."""
        return self.runs[0].file, self.runs[-1].file + self.runs[-1].length

    def matched_in(self, span: Span) -> list[Span]:
        """Return the ranges of the query's words inside `span` that were found."""
        inside = ((max(r.query, span[0]), min(r.query + r.length, span[1])) for r in self.runs)
        return [(start, end) for start, end in inside if start < end]

    def lines_of(self, span: Span) -> tuple[int, int] | None:
        """Return the first and last line of the file that hold found words of `span`; None without any."""
        numbers = [
            self.file.text.lines[run.file + edge - run.query]
            for run in self.runs
            for start, end in [(max(run.query, span[0]), min(run.query + run.length, span[1]))]
            if start < end
            for edge in (start, end - 1)
        ]
        return (min(numbers), max(numbers)) if numbers else None

    def hole_line(self, gap: Span) -> int | None:
        """Return the line of the template's hole that `gap` was filled into; None if no hole is there.

        The words of `gap` were not found themselves; the hole is looked for between the runs around them.
        """
        before = [run for run in self.runs if run.query + run.length <= gap[0]]
        after = [run for run in self.runs if run.query >= gap[1]]
        words, lines = self.file.text.words, self.file.text.lines
        start = before[-1].file + before[-1].length if before else after[0].file - 1 if after else 0
        end = after[0].file if after else start + 1
        for position in range(max(start - 1, 0), min(end + 1, len(words))):
            if words[position] in _PLACEHOLDERS:
                return lines[position]
        return None


def grams_of(words: Sequence[str], size: int) -> Iterator[Gram]:
    """Return every run of `size` words, in order."""
    return zip(*(islice(words, start, None) for start in range(size)), strict=False)


def _positions(
    words: Sequence[str], size: int, wanted: Collection[Gram] | None = None
) -> Mapping[Gram, Sequence[int]]:
    """Return where each run of `size` words begins; only those that are `wanted`, if that is given."""
    found: dict[Gram, list[int]] = defaultdict(list)
    for position, gram in enumerate(grams_of(words, size)):
        if wanted is None or gram in wanted:
            found[gram].append(position)
    return found


def alignments(query: Sequence[str], file: File) -> Iterator[Alignment]:
    """Yield the best chain of runs of `query` in `file`: from long grams first, then from short ones."""
    for size in _GRAMS:
        if runs := _runs(query, file, size):
            yield _chained(runs, file)


def _chained(runs: Sequence[_Run], file: File) -> Alignment:
    scores: list[float] = []
    previous: list[int | None] = []
    for index, run in enumerate(runs):
        best, link = float(run.length), None
        for earlier in range(index):
            gain = _gain(runs[earlier], run)
            if gain > 0 and scores[earlier] + gain > best:
                best, link = scores[earlier] + gain, earlier
        scores.append(best)
        previous.append(link)
    chain: list[_Run] = []
    at: int | None = scores.index(max(scores))
    while at is not None:
        chain.append(runs[at])
        at = previous[at]
    return Alignment(file, tuple(_trimmed(chain[::-1])))


def _gain(earlier: _Run, run: _Run) -> float:
    gap = run.file - (earlier.file + earlier.length)
    if run.query <= earlier.query or run.file <= earlier.file or gap > _FAR:
        return 0.0
    return run.length - _overlap(earlier, run) - max(gap, 0) * _GAP_COST


def _overlap(earlier: _Run, run: _Run) -> int:
    return max(earlier.query + earlier.length - run.query, earlier.file + earlier.length - run.file, 0)


def _trimmed(chain: list[_Run]) -> list[_Run]:
    kept = chain[:1]
    for run in chain[1:]:
        cut = _overlap(kept[-1], run)
        kept.append(_Run(run.query + cut, run.file + cut, run.length - cut))
    return kept


def _runs(query: Sequence[str], file: File, size: int) -> list[_Run]:
    """Return the longest runs of words that `query` and `file` share, in the order of the query."""
    done: dict[int, int] = {}
    runs: list[_Run] = []
    places = file.grams(size, set(grams_of(query, size)))
    for start, gram in enumerate(grams_of(query, size)):
        for position in places.get(gram, ())[:_POSITIONS]:
            if done.get(position - start, 0) <= start:
                run = _grown(query, file.text.words, start, position)
                done[position - start] = run.query + run.length - size + 1
                runs.append(run)
    longest = sorted(runs, key=lambda run: -run.length)[:_RUNS]
    return sorted(longest, key=lambda run: (run.query, run.file))


def _grown(query: Sequence[str], words: Sequence[str], start: int, position: int) -> _Run:
    """Return the longest run of equal words through `start` in the query and `position` in the file."""
    end = 0
    while (
        start + end < len(query)
        and position + end < len(words)
        and query[start + end] == words[position + end]
    ):
        end += 1
    begin = 0
    while begin < min(start, position) and query[start - begin - 1] == words[position - begin - 1]:
        begin += 1
    return _Run(start - begin, position - begin, begin + end)


_CONTEXT = 24
"""How many unchanged words on either side of an addition help to place it."""
_COVERED = 0.6
"""Share of an addition that must be in a file before the file is said to hold it."""
_LONG_ENOUGH = 4
"""Fewest words in a row, context included, that are no match by chance."""
_EXPLAINED = 3
"""Fewest found words that are enough if all other words stand where a template has holes."""
NAMED = 3
"""How many places an ambiguous answer names at most."""


class Query:
    """A text that was added to a prompt, with the words around it. Spans are half-open ranges of words."""

    def __init__(self, text: str, span: Span, edges: Sequence[Span] | None = None) -> None:
        edges = word_spans(text) if edges is None else edges
        start = max(span[0] - _CONTEXT, 0)
        self._full, self._start = text, start
        self._all = edges
        self._edges = edges[start : span[1] + _CONTEXT]
        self.words = [text[a:b] for a, b in self._edges]
        self.span = (span[0] - start, span[1] - start)
        self.text = self.piece(self.span)

    @property
    def size(self) -> int:
        """How many words the addition has."""
        return self.span[1] - self.span[0]

    def piece(self, span: Span) -> str:
        """Return the text of a range of words."""
        return self._full[self._edges[span[0]][0] : self._edges[span[1] - 1][1]]

    def content(self, span: Span) -> int:
        """Return how many words of a range are no punctuation, which differs from format to format."""
        return sum(map(_says_something, self.words[span[0] : span[1]]))

    def begins_line(self, word: int) -> bool:
        """Return whether the word at this index is the first of its line."""
        begin = self._edges[word][0]
        return not self._full[self._full.rfind("\n", 0, begin) + 1 : begin].strip()

    def unbroken(self) -> Span:
        """Return the range of the addition, extended to the white space around its first and last word."""
        (first, last), edges = self.span, self._edges
        while first and edges[first - 1][1] == edges[first][0]:
            first -= 1
        while last < len(edges) and edges[last - 1][1] == edges[last][0]:
            last += 1
        return first, last

    def once(self) -> Query | None:
        """Return a query for one time of what the addition says over and over (`TEXT * 20`), else None.

        It has no words around it, which may be the same text again.
        """
        first, last = self.span
        unit = _period(self.words[first:last])
        if 2 * unit > self.size:
            return None
        return Query(self.piece((first, first + unit)), (0, unit))

    def lines(self) -> list[Query]:
        """Return one query for each line of the addition; none if it has only one line."""
        first, last = self.span
        starts = [w for w in range(first + 1, last) if self.begins_line(w)]
        edges = [first, *starts, last]
        spans = pairwise(edges) if starts else ()
        return [Query(self._full, (a + self._start, b + self._start), self._all) for a, b in spans]


def _period(words: Sequence[str]) -> int:
    """Return after how many words a text begins again, to its end; all of them if it does not.

    By the prefix function of Knuth, Morris and Pratt: linear.
    """
    borders = [0] * len(words)
    for end in range(1, len(words)):
        border = borders[end - 1]
        while border and words[border] != words[end]:
            border = borders[border - 1]
        borders[end] = border + (words[border] == words[end])
    return len(words) - borders[-1] if words else 0


@dataclass(frozen=True, slots=True)
class Placed:
    """How well a file holds an addition, and where."""

    alignment: Alignment
    in_span: int
    """How many words of the addition are there, without punctuation."""
    filled: Source | None
    """The line of a hole that a part of the addition was filled into."""
    missing: tuple[str, ...]
    """The pieces of the addition that the file does not hold."""
    holds: bool
    """Whether enough of the addition is there, or was filled into holes."""
    source: Source | None
    """The lines that hold the found words."""

    @classmethod
    def of(cls, alignment: Alignment, query: Query) -> Placed:
        """Judge how well an alignment of a query explains the query's addition."""
        matched = alignment.matched_in(query.span)
        in_span = sum(map(query.content, matched))
        gaps = [gap for gap in _gaps(query.span, matched) if query.content(gap)]
        holes = {gap: line for gap in gaps if (line := alignment.hole_line(gap))}
        explained = in_span + sum(map(query.content, holes))
        size = query.content(query.span)
        enough = alignment.longest >= min(_LONG_ENOUGH, len(query.words))
        if holes and len(holes) == len(gaps):
            enough = enough or alignment.matched >= _EXPLAINED
        lines = alignment.lines_of(query.span)
        path = alignment.file.path
        return cls(
            alignment,
            in_span,
            Source(path, next(iter(holes.values()))) if holes and enough else None,
            tuple(query.piece(gap) for gap in gaps),
            bool(lines) and enough and explained >= _COVERED * size,
            Source(path, lines[0], lines[1] if lines[1] > lines[0] else None) if lines else None,
        )

    def rank(self) -> tuple[bool, int, int]:
        """Return a sort key: better places rank higher, and equal ranks are ambiguous."""
        return self.holds, self.in_span, self.alignment.matched


def best_placement(query: Query, file: File) -> Placed | None:
    """Return how well `file` holds `query`, by its best alignment; None if they share nothing."""
    best: Placed | None = None
    for alignment in alignments(query.words, file):
        one = Placed.of(alignment, query)
        best = one if best is None or one.rank() > best.rank() else best
        if best.holds:
            break
    return best


def _says_something(word: str) -> bool:
    return word[0].isalnum() or word[0] == "_"


def _gaps(span: Span, matched: Sequence[Span]) -> list[Span]:
    edges = [span[0], *(edge for pair in matched for edge in pair), span[1]]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def equal_places(best: Placed, query: Query) -> list[Source]:
    """Return the place of `best`, and other places in the same file that hold as much."""
    places: list[Source] = []
    one = best
    while one.source and len(places) < NAMED:
        places.append(one.source)
        again = best_placement(query, one.alignment.file.without(*one.alignment.extent))
        if again is None or again.rank() != best.rank():
            break
        one = again
    return places


_LONGEST = 60
"""Most words of an addition that may be a value."""
_NEAR = 24
"""How many words on either side of a hole are compared."""
_EXPRESSION = 16
"""Most words of a hole, from brace to brace."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A line with a hole that an addition fits, and the value that was filled in."""

    source: Source
    value: str


@dataclass(frozen=True, slots=True)
class _Fit:
    source: Source
    value: Span
    begin: int
    """Index, in the file, of the first equal word in front of the hole."""
    first: int
    """Index of the same word in the query."""
    words: int
    """How many words on both sides of the hole also stand around the value, without punctuation marks."""
    marks: int
    """How many punctuation marks do."""

    @property
    def rank(self) -> tuple[int, int]:
        return self.words, self.marks


def filled_in(query: Query, files: Iterable[File]) -> Filled | None:
    """Return the one line of `files` with a hole that an addition fits as a whole.

    Words of the line itself may be part of the addition. `Session {id}` is too short to be found as a text,
    but it is all that stands around a session's id. Return None if no line fits, or several fit equally well.
    """
    if query.size > _LONGEST:
        return None
    added = query.unbroken()
    fits: list[_Fit] = []
    for file in files:
        ends: set[int] = set()
        for hole in _holes(file.text.words):
            fit = _fit(query, added, file, hole)
            if fit and (fit.words > 1 or fit.begin in ends or query.begins_line(fit.first)):
                fits.append(fit)
            ends.add(hole[1])
    best = max((fit.rank for fit in fits), default=None)
    lines = {fit.source: fit for fit in fits if fit.rank == best}
    if len(lines) != 1:
        return None
    ((source, fit),) = lines.items()
    return Filled(source, query.piece(fit.value))


def _fit(query: Query, added: Span, file: File, hole: Span) -> _Fit | None:
    words, (start, end), (first, last) = file.text.words, hole, added
    # How many words at the addition's beginning, and at its end, are the line's own.
    inside = max(
        n for n in range(last - first) if words[max(start - n, 0) : start] == query.words[first : first + n]
    )
    behind = max(
        n for n in range(last - first - inside) if words[end : end + n] == query.words[last - n : last]
    )
    value = (first + inside, last - behind)
    before = common_prefix(words[max(start - _NEAR, 0) : start][::-1], query.words[: value[0]][::-1])
    after = common_prefix(words[end : end + _NEAR], query.words[value[1] :])
    said = [*query.words[value[0] - before : value[0]], *query.words[value[1] : value[1] + after]]
    content = sum(word[0].isalnum() for word in said)
    if not before or not (content or after):
        return None
    source = Source(file.path, file.text.lines[start])
    return _Fit(source, value, start - before, value[0] - before, content, len(said) - content)


def _holes(words: Sequence[str]) -> Iterator[Span]:
    """Yield the holes of f-strings, str.format, Jinja, `%` and string.Template, as ranges of words."""
    at = 0
    while at < len(words):
        end = _end_of_hole(words, at)
        if end > at:
            yield at, end
        at = max(end, at + 1)


def _end_of_hole(words: Sequence[str], at: int) -> int:
    """Return the index behind the hole that begins at the word `at`; `at` itself if no hole does."""
    word = words[at]
    if word == HOLE:
        return at + 1
    if word == "{":
        depth = 0
        for position in range(at, min(at + _EXPRESSION, len(words))):
            depth += (words[position] == "{") - (words[position] == "}")
            if not depth:
                return position + 1
    if word in ("%", "$") and at + 1 < len(words):
        braced = words[at + 1] == "{"
        return _end_of_hole(words, at + 1) if braced else at + 2
    return at
