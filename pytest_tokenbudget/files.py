"""Write files whole or not at all; read YAML that comes with a pull request, and write it for review.

This is the one user of PyYAML: its safe loader, with bounds on depth and size.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def encoded(text: str) -> bytes:
    """Encode `text` as UTF-8, half a surrogate pair (which some clients send) as the escape that JSON has."""
    return text.encode("utf-8", "backslashreplace")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, through a temporary file beside it; make its folder if missing.

    A link stays a link, and what it leads to is replaced. A device or a pipe, such as /dev/stdout, is written
    to. Raises OSError and leaves what was there.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole even where several processes write. Raises OSError."""
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with locked(path.parent):
            content = encoded(line + "\n")
            while content:
                content = content[os.write(opened, content) :]
    finally:
        os.close(opened)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process that asks for the same lock out of a folder; leave nothing there.

    Windows cannot lock a folder: there it does nothing. Raises OSError if there is no such folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system may have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A text that git left with conflict marks."""

    line: int
    """Number of the line with the first mark, from 1."""
    sides: tuple[str, str] | None
    """The text of either side, ours first; None if the marks do not pair."""
    base: str | None
    """The text that both sides came from, if the marks hold it (`merge.conflictStyle = diff3`); else None."""


_MARK = re.compile(r"(<{7}|\|{7}|>{7})(?: |$)|={7}$")
_PARTS = {"<": ("", "ours"), "|": ("ours", "base"), "=": ("ours base", "theirs"), ">": ("theirs", "")}
"""The parts that a mark may end, and the part that it begins, by the mark's character."""


def conflict_in(text: str) -> Conflict | None:
    """Return the conflict that git left in a text of YAML, or None."""
    if "<<<<<<<" not in text and ">>>>>>>" not in text:
        return None
    first, part, pairs, tells_base = 0, "", True, False
    texts: dict[str, list[str]] = {"ours": [], "base": [], "theirs": []}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        mark = _MARK.match(line.rstrip("\r\n"))
        if mark is None or (line[0] == "=" and not part):
            for name in [part] if part else texts:
                texts[name].append(line)
            continue
        before, after = _PARTS[line[0]]
        pairs = pairs and part in (before.split() or [""])
        tells_base = tells_base or line[0] == "|"
        first, part = first or number, after
    if not first:
        return None
    ours, base, theirs = ("".join(lines) for lines in texts.values())
    sides = (ours, theirs) if pairs and not part else None
    return Conflict(first, sides, base if sides and tells_base else None)


_MAX_DEPTH = 100  # levels of YAML; libyaml's composer overflows the C stack without a bound
_MAX_GROWTH = 20  # how many times larger than its values aliases may make a document
_FREE_GROWTH = 1_000_000  # a size up to which any growth is allowed
_RESOLVED = ("null", "bool", "int", "float")  # everything else without quotes is text: dates too


def dump_yaml(document: object) -> str:
    """Return the YAML of a document of builtins, in its order, one value a line, the same everywhere."""
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, width=10_000)
    return text


def load_yaml(text: str) -> Any:
    """Return the document in `text`. Raises ValueError with the reason if it is broken or too large."""
    import yaml

    try:
        document = yaml.load(text, Loader=_loader())  # noqa: S506
        _refuse_bombs(document)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return document


@functools.cache
def _loader() -> type:
    """Return a safe loader, libyaml's if installed, that bounds depth and knows no merge keys."""
    import yaml
    from yaml.constructor import ConstructorError

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        depth = 0

        def descend_resolver(self, *_: Any) -> None:
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise ConstructorError(None, None, f"nested deeper than {_MAX_DEPTH} levels", None)

        def ascend_resolver(self) -> None:
            self.depth -= 1

        def flatten_mapping(self, node: Any) -> None:
            """Leave `<<` alone: merging merged mappings grows without bound."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """Refuse a key that occurs twice, as after a merge: PyYAML would take the last one."""
            mapping = super().construct_mapping(node, deep)
            if len(mapping) < len(node.value):
                counted = Counter(str(key.value) for key, _ in node.value)
                key, _ = counted.most_common(1)[0]
                raise ConstructorError(None, None, f"the key {key!r} stands there twice", node.start_mark)
            return mapping

    tags = tuple(f"tag:yaml.org,2002:{name}" for name in _RESOLVED)
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in tags]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    for tag in ("str", "unicode"):  # as vcr's own loader reads them
        Loader.add_constructor(f"tag:yaml.org,2002:python/{tag}", Loader.construct_scalar)
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", Loader.construct_sequence)
    return Loader


def _refuse_bombs(document: object) -> None:
    """Raise ValueError if aliases make a document endless, or many times what is written down."""
    written: dict[int, int] = {}  # by identity: the size of a value without the values it holds
    whole: dict[int, int] = {}  # by identity: its size with the values it holds, aliases followed

    def size(value: object) -> int:
        if not isinstance(value, (dict, list, str, bytes)):
            return 1
        if id(value) in whole:
            return whole[id(value)]
        if id(value) in written:
            raise ValueError("an alias refers to what it is part of")
        written[id(value)] = len(value) + 1
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        whole[id(value)] = written[id(value)] + sum(map(size, items))
        return whole[id(value)]

    if size(document) > _FREE_GROWTH + _MAX_GROWTH * sum(written.values()):
        raise ValueError("its aliases make it many times larger than the file")


# --- YAML that a person can review ------------------------------------------------------------------------
# Every field has its own line, and so has every line of a prompt. PyYAML's dumpers fold long text, fall back
# to one quoted blob where a line ends in a space or holds an emoji (libyaml), and differ from each other.
# Cassettes must be the same bytes everywhere and give small diffs.

_LONG_KEY = 128  # characters; a simple key of YAML may not be longer than 1,024
_PRINTABLE = "\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_PLAIN = re.compile(rf"[^\W\d](?:[{_PRINTABLE}]*[\w.,!?)])?")
_NOT_PLAIN = re.compile(r"\t|: | #|:$")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_LITERAL = re.compile(rf"[{_PRINTABLE}\n]*")
_BLANK_AT_END = re.compile(r"[ \t]$", re.MULTILINE)
_INDENTED = re.compile(r"\n*[ \t]")
_ESCAPED = re.compile(rf'[^{_PRINTABLE}\ud800-\udfff]|[\\"\t]')  # surrogates stay, and fail to encode
_WORD = re.compile(r"[A-Za-z_]\w*")
_LONG_LINE = 500  # characters
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


class OneLine(dict[str, Any]):
    """A mapping that is shown on one line if that is not too long, since its values change together."""


def yaml_text(document: Mapping[str, Any]) -> str:
    """Return the YAML of nested mappings (string keys, order kept), lists, text, bytes, numbers, bool and
    None.

    Any YAML 1.1 loader reads the same values back. Recurses as deep as the value. Raises TypeError for other
    types, and ValueError for NaN and infinities.
    """
    lines: list[str] = []
    _container(document, "", lines)
    return "\n".join(lines) + "\n"


def _container(value: Any, pad: str, lines: list[str]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _entry(f"{pad}{_key(key, pad)}:", item, pad, pad if isinstance(item, list) else f"{pad}  ", lines)
    else:
        for item in value:
            _entry(f"{pad}-", item, pad, f"{pad}  ", lines)


def _entry(head: str, item: Any, pad: str, inner: str, lines: list[str]) -> None:
    if not isinstance(item, (Mapping, list, tuple)):
        lines.append(f"{head} {_scalar(item, pad + '  ')}")
    elif not item:
        lines.append(f"{head} {{}}" if isinstance(item, Mapping) else f"{head} []")
    elif isinstance(item, OneLine) and len(line := _flow(item)) <= _LONG_LINE:
        lines.append(f"{head} {line}")
    elif head.endswith("-"):
        first = len(lines)
        _container(item, inner, lines)
        lines[first] = head + lines[first][len(head) :]  # the first entry stands on the line of its dash
    else:
        lines.append(head)
        _container(item, inner, lines)


def _flow(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        items = (f"{_flow(key)}: {_flow(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and _is_plain(value) else _quoted(value)
    return _scalar(value, "")


def _key(key: Any, pad: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key is {type(key).__name__}, not str")
    text = key if _is_plain(key) else _quoted(key)
    return text if len(text) <= _LONG_KEY else f"? {_quoted(key)}\n{pad}"


def _scalar(value: Any, pad: str) -> str:
    if isinstance(value, str):
        return _string(value, pad)
    if isinstance(value, (bytes, bytearray)):
        return "\n".join(["!!binary |", *(pad + line for line in _base64_lines(bytes(value)))])
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)  # YAML 1.1 wants a point before an exponent
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, float):
        raise ValueError(f"{value} is no JSON number")
    raise TypeError(f"a value is {type(value).__name__}, which a cassette cannot hold")


def _base64_lines(value: bytes) -> Sequence[str]:
    return base64.encodebytes(value).decode("ascii").splitlines()


def _string(text: str, pad: str) -> str:
    if "\n" in text[:-1]:
        return _literal(text, pad) if _is_literal(text) else _quoted_lines(text, pad)
    return text if _is_plain(text) else _quoted(text)


def _is_plain(text: str) -> bool:
    return (
        _PLAIN.fullmatch(text) is not None and _NOT_PLAIN.search(text) is None and text.lower() not in _WORDS
    )


def _is_literal(text: str) -> bool:
    """Return whether a literal block can show a text and survive tools that strip blanks at line ends."""
    return bool(text.strip()) and _LITERAL.fullmatch(text) is not None and not _BLANK_AT_END.search(text)


def _literal(text: str, pad: str) -> str:
    indicator = "2" if _INDENTED.match(text) else ""
    chomping = "-" if not text.endswith("\n") else "+" if text.endswith("\n\n") else ""
    lines = text.removesuffix("\n").split("\n")
    return "\n".join([f"|{indicator}{chomping}", *(pad + line if line else "" for line in lines)])


def _quoted(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _quoted_lines(text: str, pad: str) -> str:
    """Return a quoted string over several lines of the file, each ending with its own escaped line break."""
    pieces = [_ESCAPED.sub(_escape, line) for line in text.splitlines(keepends=True)]
    return '"\\\n' + "\\\n".join(pad + (f"\\{piece}" if piece[0] == " " else piece) for piece in pieces) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    return _ESCAPES.get(char) or (f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}")
