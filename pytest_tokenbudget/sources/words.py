"""Split texts into words with line numbers, by which prompts and the repository's files are compared.

A word is a run of letters, digits and underscores, one CJK character, or one punctuation mark. White space is
no word, so that `textwrap.dedent`, joined lines and folded YAML scalars change nothing.

This module also finds the words that one text has and another lacks, and the order in which a text lists
names. That order tells an order that somebody edited from one that a process makes up.
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
"""The word for a hole of a template: an f-string's expression, or one that is added to a literal."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]|\0")
_ESCAPE = re.compile(
    r"\\(?:u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|x(?P<x>[0-9a-fA-F]{2})|N\{[^}]*\}|(?P<c>.)|$)"
)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "b": " ", "f": " ", "v": " ", "a": " "}
_INNER = r"""(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\{[^{}]*\}|[^{}"'])*"""
"""The expression of an f-string, which may hold strings with its own quotes (since Python 3.12)."""
_LITERAL = re.compile(
    rf"""\#[^\n]*
      | (?<!\w)(?P<f>[rR]?[fFtT][rR]?)(?P<ends>(?P<lines>\"\"\"|\'\'\')|"|')
        (?P<filled>
          (?:\\.|\{{\{{|\}}\}}|\{{{_INNER}\}}|(?!(?P=ends))(?(lines)[^\\{{}}]|[^\\{{}}\n]))*
        )(?P=ends)
      | (?:(?<!\w)(?P<prefix>[rRbBuUfFtT]{{1,3}}))?
        (?: (?P<triple>\"\"\"|\'\'\')(?P<long>(?:\\.|(?!(?P=triple)).)*)(?P=triple)
          | (?P<quote>["'])(?P<short>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote) )""",
    re.VERBOSE | re.DOTALL,
)
_FIELD = re.compile(rf"\{{\{{|\}}\}}|\{{{_INNER}\}}")
_ADDS = re.compile(r"[ \t]*\+\s*(?![rRbBuUfFtT]{0,2}[\"'])")
_ADDED_TO = re.compile(r"[\w)\]]\s*\+\s*$")
"""An expression added behind a literal (`_ADDS`), or in front of it: a hole, as in an f-string."""
_ADDED_WITHIN = 80
"""How many characters in front of a literal are searched for `_ADDED_TO`."""
_JSON = frozenset({".json", ".jsonl", ".ndjson", ".ipynb"})
_JSON_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[-+.\w]*')
_ESCAPED = frozenset(
    {".yaml", ".yml", ".toml", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts", ".cts", ".go", ".rb"}
    | {".java", ".kt", ".kts", ".scala", ".cs", ".php", ".rs", ".swift", ".c", ".h", ".cc", ".cpp", ".hpp"}
    | {".lua", ".ex", ".exs", ".clj", ".dart", ".pl", ".sh", ".vue", ".svelte"}
)
"""Formats, and languages other than Python, that write a line break in a text as `\\n`."""
_MARKUP = frozenset({".html", ".htm", ".xml"})


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, each with the line that it begins on, counted from 1."""

    words: list[str]
    lines: list[int]


def words_of(text: str) -> list[str]:
    """Return the words of a text."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where each word of a text begins and ends, in characters."""
    return [match.span() for match in _WORD.finditer(text)]


def read_words(path: str, text: str) -> Words:
    """Return the words of a file that a prompt can come from, with their lines.

    Of Python source these are the string literals, else the whole text. Escapes of JSON, YAML, TOML and
    Python are undone, and so are entities of HTML and XML.
    """
    words: list[str] = []
    lines: list[int] = []
    for number, line in _lines(PurePosixPath(path).suffix.lower(), text):
        found = _WORD.findall(line)
        words.extend(map(intern, found))  # many words, few different ones
        lines.extend([number] * len(found))
    return Words(words, lines)


def _lines(suffix: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the text of a file that can be part of a prompt, as (line number from 1, text)."""
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
    """Yield the string literals of Python source, line by line, as (line number from 1, text).

    They are found by their quotes and not by `ast`, which gives neither the lines inside a concatenation nor,
    before Python 3.12, the places of an f-string's pieces, and which refuses a file of another Python
    version.
    """
    number, position = 1, 0
    for match in _LITERAL.finditer(source):
        number += source.count("\n", position, match.start())
        position = match.start()
        if match[0].startswith("#"):
            continue
        prefix = (match["f"] or match["prefix"] or "").lower()
        body = next(match[name] for name in ("filled", "long", "short") if match[name] is not None)
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
    lines = [""] * (field.count("\n") + 1)  # keep the expression's line breaks for the line numbers
    for number, text in _literals(field[1:-1]):
        if len(words_of(text)) > 1:  # a sentence, not the key of a mapping
            lines[number - 1] += f" {text} ".replace("\n", " ")
    return f" {HOLE} " + "\n".join(lines)


def _unescape(line: str) -> str:
    if "\\" not in line:
        return line
    text = _ESCAPE.sub(_escape, line)
    # JSON writes characters above U+FFFF as pairs of surrogates: join them.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(match: re.Match[str]) -> str:
    digits = match["u"] or match["U"] or match["x"]
    if digits:
        code = int(digits, 16)
        return chr(code) if code < 0x110000 else " "
    character = match["c"] or ""  # none: the line goes on below
    return _CONTROL.get(character, character)


_CELLS = 1_000_000
"""Largest product of two lengths for `SequenceMatcher`, which is quadratic at worst."""
_JOINED_WITHIN = 3
"""Most words between two additions that are taken as one."""
_SENTENCE_ENDS = frozenset(".!?:;。！？")

Span = tuple[int, int]
"""A half-open range of words: (first index, index behind the last)."""


def added_spans(was: str, now: str) -> list[Span]:
    """Return the ranges of words of `now` that `was` does not have there; none if words were only removed.

    Lines are compared first, then the words inside of replaced lines, so that a sentence added to a long line
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
    """Return the words of each line, without lines that have none."""
    return [line for line in (tuple(words_of(line)) for line in text.splitlines()) if line]


def _word_spans(old: list[str], new: list[str]) -> list[Span]:
    """Return the ranges of words in `new` that differ from `old`."""
    spans = [(k, m) for _, _, k, m in replaced(old, new) if m > k]
    return [_at_sentence_start(new, start, end) for start, end in spans]


def replaced(
    old: Sequence[tuple[str, ...]] | Sequence[str], new: Sequence[tuple[str, ...]] | Sequence[str]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (i, j, k, m) for each old[i:j] that became new[k:m].

    Two long sequences give one range: all that stands between their common beginning and end.
    """
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
    """Slide an addition to the left over equal words, to where its sentence begins.

    "A b. **A c.** A d." and "A b. A **c. A** d." are the same difference; the first is how it was written.
    """
    left, right = start, end
    while left > 0 and words[left - 1] == words[right - 1] and words[left - 1] not in _SENTENCE_ENDS:
        left, right = left - 1, right - 1
    return (left, right) if left == 0 or words[left - 1] in _SENTENCE_ENDS else (start, end)


def _merged(spans: list[Span]) -> Iterator[Span]:
    """Yield the non-empty spans, with those that are near to each other joined."""
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
    """Return whether `now` lists these names in this order, and the edit from `before` touched one."""
    if not lists_in_order(names, now):
        return False
    lines = now.splitlines()
    found = _named(names, lines)
    edited = {line for _, _, start, end in replaced(before.splitlines(), lines) for line in range(start, end)}
    return any(line in edited for _, line in found)


def lists_in_order(names: Names, text: str) -> bool:
    """Return whether a text lists these names in this order.

    This holds for code, JSON and prose alike: only the order counts in which the names come, as whole words.
    """
    said = tuple(name for name, _ in groupby(name for name, _ in _named(names, text.splitlines())))
    runs = (said[at : at + len(names)] for at in range(len(said)))
    return tuple(dict.fromkeys(said)) == names or names in runs


def _named(names: Names, lines: Sequence[str]) -> list[tuple[str, int]]:
    """Return each occurrence of a name in the lines, in order, with the index of its line.

    `find_trains` is also said by the class `FindTrains` that it is made of.
    """
    spelled = {spelling: name for name in names for spelling in (_as_class(name), name)}
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(spelling)}(?!\w)" for spelling in spelled))
    return [
        (spelled[match[0]], number) for number, line in enumerate(lines) for match in pattern.finditer(line)
    ]


def _as_class(name: str) -> str:
    """Return a name in words as the name of a class: `find_trains` as `FindTrains`."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[_-]", name))


def other_order(was: object, now: object) -> Names | None:
    """Return names that stand in another order in two JSON-like values, in their new order; else None.

    Names are the keys of a mapping, or the strings of a list. The first place with another order counts, and
    only the part of the names that moved (`moved`).
    """
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
    """Return the names of `now` from the first to the last that stand in another place than in `was`."""
    differ = [at for at, (old, new) in enumerate(zip(was, now, strict=True)) if old != new]
    return tuple(now[differ[0] : differ[-1] + 1])
