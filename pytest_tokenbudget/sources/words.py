"""Split texts into words with line numbers, by which prompts and the repository's files are compared.

A word is a run of letters, digits and underscores, one CJK character, or one punctuation mark. White space
is no word, so that `textwrap.dedent`, joined lines and folded YAML scalars change nothing. Here are also
the words that a text gained over another, and the order in which a text lists names, which tells an edited
order from one that a process makes up.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import PurePosixPath
from sys import intern

from pytest_tokenbudget.sequences import common_ends

HOLE = "\0"
"""Stands where a template is filled: the expression of an f-string, or one that is added to a literal."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]|\0")
_ESCAPE = re.compile(
    r"\\(?:u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|x(?P<x>[0-9a-fA-F]{2})|N\{[^}]*\}|(?P<c>.)|$)"
)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "b": " ", "f": " ", "v": " ", "a": " "}
_LITERAL = re.compile(
    r"""\#[^\n]*
      | (?:(?<!\w)(?P<prefix>[rRbBuUfFtT]{1,3}))?
        (?: (?P<triple>\"\"\"|\'\'\')(?P<long>(?:\\.|(?!(?P=triple)).)*)(?P=triple)
          | (?P<quote>["'])(?P<short>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote) )""",
    re.VERBOSE | re.DOTALL,
)
_FIELD = re.compile(r"\{\{|\}\}|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_ADDS = re.compile(r"[ \t]*\+\s*(?![rRbBuUfFtT]{0,2}[\"'])")
_ADDED_TO = re.compile(r"[\w)\]]\s*\+\s*$")
"""An expression that is added to a literal, and one that a literal is added to: holes, as in f-strings."""
_ADDED_WITHIN = 80
"""Characters in front of a literal that are looked at."""
_JSON = frozenset({".json", ".jsonl", ".ndjson", ".ipynb"})
_JSON_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[-+.\w]*')
_ESCAPED = frozenset(
    {".yaml", ".yml", ".toml", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts", ".cts", ".go", ".rb"}
    | {".java", ".kt", ".kts", ".scala", ".cs", ".php", ".rs", ".swift", ".c", ".h", ".cc", ".cpp", ".hpp"}
    | {".lua", ".ex", ".exs", ".clj", ".dart", ".pl", ".sh", ".vue", ".svelte"}
)
"""Formats, and languages beside Python, that write a line break in a text as `\\n`."""
_MARKUP = frozenset({".html", ".htm", ".xml"})


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, each with the line that it begins on, counted from 1."""

    words: list[str]
    lines: list[int]


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of the words of a text begins and ends, in characters."""
    return [match.span() for match in _WORD.finditer(text)]


def read_words(path: str, text: str) -> Words:
    """The words of a file that a prompt can come from: of Python its string literals, else the whole text.

    Escapes of JSON, YAML, TOML and Python are undone, entities of HTML and XML too.
    """
    words: list[str] = []
    lines: list[int] = []
    for number, line in _lines(PurePosixPath(path).suffix.lower(), text):
        found = _WORD.findall(line)
        words.extend(map(intern, found))  # many words, few different ones
        lines.extend([number] * len(found))
    return Words(words, lines)


def _lines(suffix: str, text: str) -> Iterator[tuple[int, str]]:
    if suffix in (".py", ".pyi"):
        yield from _literals(text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if suffix in _JSON:
            # Strings and numbers alone, so that a tool's schema reads the same here, in Python and when sent.
            yield number, " ".join(_unescape(value).strip('"') for value in _JSON_VALUE.findall(line))
        elif suffix in _ESCAPED:
            yield number, _unescape(line)
        elif suffix in _MARKUP:
            yield number, html.unescape(line)
        else:
            yield number, line


def _literals(source: str) -> Iterator[tuple[int, str]]:
    """The string literals of Python source, line by line.

    Found by their quotes rather than by `ast`, which gives neither the lines inside a concatenation nor,
    before 3.12, the place of an f-string's pieces, and which refuses a file of another Python altogether.
    """
    number, position = 1, 0
    for match in _LITERAL.finditer(source):
        number += source.count("\n", position, match.start())
        position = match.start()
        if match["triple"] is None and match["quote"] is None:
            continue  # a comment
        prefix = (match["prefix"] or "").lower()
        body = match["short"] if match["triple"] is None else match["long"]
        if "f" in prefix or "t" in prefix:
            body = _FIELD.sub(_field, body)
        if _ADDED_TO.search(source, max(match.start() - _ADDED_WITHIN, 0), match.start()):
            yield number, HOLE
        for offset, line in enumerate(body.split("\n")):
            yield number + offset, line if "r" in prefix else _unescape(line)
        if _ADDS.match(source, match.end()):
            yield number + body.count("\n"), HOLE


def _field(match: re.Match[str]) -> str:
    field = match[0]
    if field in ("{{", "}}"):
        return field[0]
    return f" {HOLE} " + "\n" * field.count("\n")  # an expression may span lines: the count goes on


def _unescape(line: str) -> str:
    if "\\" not in line:
        return line
    text = _ESCAPE.sub(_escape, line)
    # JSON writes what is above U+FFFF as a pair of surrogates.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(match: re.Match[str]) -> str:
    digits = match["u"] or match["U"] or match["x"]
    if digits:
        code = int(digits, 16)
        return chr(code) if code < 0x110000 else " "
    character = match["c"] or ""  # none: the line goes on below
    return _CONTROL.get(character, character)


_CELLS = 1_000_000
"""Above this product of lengths `SequenceMatcher`, which is quadratic at worst, is left out."""
_JOINED_WITHIN = 3
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
        if current and start - current[1] <= _JOINED_WITHIN:
            current = (current[0], end)
        else:
            if current:
                yield current
            current = (start, end)
    if current:
        yield current


Names = tuple[str, ...]


def is_new_order(names: Names, before: str, now: str) -> bool:
    """Whether an edit of a text, `before` to `now`, touches some of these names, listed in this order."""
    if not lists_in_order(names, now):
        return False
    lines = now.splitlines()
    found = _named(names, lines)
    edited = {line for _, _, start, end in replaced(before.splitlines(), lines) for line in range(start, end)}
    return any(line in edited for _, line in found)


def lists_in_order(names: Names, text: str) -> bool:
    """Return whether a text lists these names in this order.

    Code, JSON and prose alike: only the order counts in which the names come, as whole words.
    """
    said = tuple(name for name, _ in groupby(name for name, _ in _named(names, text.splitlines())))
    runs = (said[at : at + len(names)] for at in range(len(said)))
    return tuple(dict.fromkeys(said)) == names or names in runs


def _named(names: Names, lines: Sequence[str]) -> list[tuple[str, int]]:
    """Return the names as they come, each with the number of its line."""
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
    return [(match[0], number) for number, line in enumerate(lines) for match in pattern.finditer(line)]


def other_order(was: object, now: object) -> Names | None:
    """The first keys, or strings of a list, in another order in two JSON-like values, as they come now."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        if list(was) != list(now):
            return moved([*was], [*now]) if was.keys() == now.keys() else None
        inner = [(was[key], now[key]) for key in was]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        if was != now and all(isinstance(one, str) for one in (*was, *now)):
            return moved(was, now) if sorted(was) == sorted(now) else None
        inner = list(zip(was, now, strict=True))
    else:
        return None
    return next((found for pair in inner if (found := other_order(*pair))), None)


def moved(was: Sequence[str], now: Sequence[str]) -> Names:
    """Of names in another order, those between the first and the last that stand elsewhere."""
    differ = [at for at, (old, new) in enumerate(zip(was, now, strict=True)) if old != new]
    return tuple(now[differ[0] : differ[-1] + 1])
