"""Write files whole or not at all; read YAML that comes with a pull request, and write it for review.

This is the one user of PyYAML: its safe loader, with bounds on depth and size.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shlex
from collections import Counter
from collections.abc import Iterator
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


def restoring(path: Path) -> str:
    """Return the command that brings a file back as it was committed, also in the middle of a merge."""
    return f"git checkout HEAD -- {shlex.quote(str(path))}"


def taking_a_side(path: Path) -> str:
    """Return the command that ends the conflict of a file by our side of it."""
    return f"git checkout --ours -- {shlex.quote(str(path))}"


def seen_from(folder: Path, text: str) -> str:
    """Return a text whose paths below `folder` begin there, so that its commands can be pasted there."""
    return text.replace(f"{folder}{os.sep}", "")


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
