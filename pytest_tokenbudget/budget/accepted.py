"""Read and write accepted requests: how they differ from the recorded ones, as edits by line.

`token_budgets/accepted/<module>.yaml` stands beside the baselines of a test module; `docs/formats.md`
describes it. Each edit is written once in a file, however many turns and scenarios share it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_tokenbudget.budget.baselines import (
    UPDATE,
    Baseline,
    format_models,
    not_written,
    read_models,
    resolve,
)
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.files import conflict_in, dump_yaml, load_yaml, write_atomically
from pytest_tokenbudget.model import Basis, Source, Usage
from pytest_tokenbudget.sequences import common_ends
from pytest_tokenbudget.wire.exchange import Accepted, Request
from pytest_tokenbudget.wire.prompt import digest
from pytest_tokenbudget.wire.requests import lasting_body, rewritten
from pytest_tokenbudget.wording import next_step

VERSION = 1
_HEADER = f"# Accepted requests. Written by `{UPDATE}`; commit it with the baselines.\n"
_ORDER, _URL, _BETAS = "(keys)", "(url)", "(anthropic-beta)"
"""Fields that are no keys of a body: the order of its keys, what the URL tells, and the betas."""
_TOOLS = "tools"
_MOSTLY = 0.5
"""If more than this share of a field's lines changed, one edit replaces all between the unchanged ends."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines that are removed from one field of a request, and lines that are added in their place."""

    field: str
    """A key of the body (`system`, `messages`, ...), or one of the names in brackets."""
    start: int
    """Index, from 0, of the first removed line, or of the line before which lines are added."""
    removed: tuple[str, ...]
    added: tuple[str, ...]
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """The tools that it changes, as its lines need not say their names: a digest of each that is accepted, by
    its name; empty for one that is gone."""


@dataclass(frozen=True, slots=True)
class AcceptedTurn:
    """What was accepted in place of one recorded turn."""

    of: int
    """Index of the recorded turn, from 0."""
    usage: Usage
    basis: Basis
    """How the prompt tokens of `usage` are known."""
    edits: tuple[Edit, ...] = ()
    """Empty if only its numbers differ, for example because another turn changed the prompt cache."""
    gone: bool = False
    """Whether the turn is not asked for any more."""
    volatile: bool = False
    """Whether a second replay proved that its cached prefix is another one in every process, or with every
    second."""


@dataclass(frozen=True, slots=True)
class AcceptedCassette:
    """What was accepted in place of the turns of one recording. Turns that are as recorded are left out."""

    recording: str
    """The `recording_digest` of the recording. For any other recording this is void."""
    turns: tuple[AcceptedTurn, ...]

    def apply(self, recorded: Sequence[Request]) -> dict[int, Accepted]:
        """Return what was accepted, by the index of the recorded turn.

        Raises BaselineError if an edit does not fit the requests of the recording.
        """
        accepted = {}
        for turn in self.turns:
            if turn.of >= len(recorded):
                raise BaselineError(f"the recording has no turn {turn.of}")
            request = None if turn.gone else edited(recorded[turn.of], turn.edits)
            accepted[turn.of] = Accepted(request, turn.usage, turn.basis, turn.volatile)
        return accepted


def accepted_digest(cassettes: Sequence[AcceptedCassette]) -> str:
    """Return the 12 hex digits by which a baseline knows the accepted requests of its scenario."""
    return digest(*(_cassette_table(cassette, by_key={}) for cassette in cassettes))[:12]


# --- requests and edits ------------------------------------------------------------------------------------


def edits_between(recorded: Request, request: Request) -> tuple[Edit, ...]:
    """Return the edits that turn `recorded` into `request`; none if both say the same."""
    known = recorded.prompt.betas is not None
    was, now = _fields(recorded, betas=known), _fields(request, betas=known)
    edits = (
        edit
        for name in dict.fromkeys((*was, *now))
        for edit in _edits(name, was.get(name, []), now.get(name, []))
    )
    return tuple(_naming_tools(edits, recorded, request))


def _naming_tools(edits: Iterable[Edit], recorded: Request, request: Request) -> Iterator[Edit]:
    """Yield the edits, those of tools with the names of the tools that they change."""
    was, now = ((side.body or {}).get(_TOOLS) for side in (recorded, request))
    was, now = (tools if isinstance(tools, list) else [] for tools in (was, now))
    before, after = ({_name_of(tool): tool for tool in tools} for tools in (was, now))
    grown = 0
    for edit in edits:
        if edit.field == _TOOLS:
            begin = edit.start + grown
            touched = _owners(was)[edit.start : edit.start + len(edit.removed)]
            touched += _owners(now)[begin : begin + len(edit.added)]
            grown += len(edit.added) - len(edit.removed)
            changed = (name for name in touched if name and before.get(name) != after.get(name))
            yield replace(
                edit, tools={name: digest(after[name])[:8] if name in after else "" for name in changed}
            )
        else:
            yield edit


def _owners(tools: Sequence[Any]) -> list[str]:
    """Return the name of the tool that each line of `_lines(tools)` begins in, if it begins in one."""
    sizes = (sum(map(len, _lines(tool))) + 1 for tool in tools)
    starts = list(accumulate(sizes, initial=1))[:-1]
    offsets = accumulate(map(len, _lines(tools)), initial=0)
    names = ["", *map(_name_of, tools)]
    return [names[bisect_right(starts, offset)] for offset in offsets][:-1]


def _name_of(tool: object) -> str:
    """Return the name of a tool; empty if it has none."""
    return str(tool.get("name") or "") if isinstance(tool, Mapping) else ""


def edited(recorded: Request, edits: Iterable[Edit]) -> Request:
    """Return the request that `edits` make of a recorded one. Raises BaselineError if they do not fit it."""
    known = recorded.prompt.betas is not None
    fields = _fields(recorded, betas=known)
    changed = False
    for edit in reversed(tuple(edits)):
        lines = fields.setdefault(edit.field, [])
        end = edit.start + len(edit.removed)
        if tuple(lines[edit.start : end]) != edit.removed:
            raise BaselineError(f"{edit.field}: line {edit.start} is not the one that was edited")
        lines[edit.start : end] = edit.added
        changed = True
    if not changed:
        return recorded
    try:
        read = {name: json.loads("".join(lines)) for name, lines in fields.items() if lines}
        url, betas = read.pop(_URL), read.pop(_BETAS, None)
        body = {name: read[name] for name in read.pop(_ORDER)}
        endpoint = replace(recorded.endpoint, model=url["model"], stream=url["stream"])
    except (ValueError, LookupError, TypeError) as error:
        raise BaselineError("the edits do not make a request") from error
    return rewritten(recorded, body, endpoint, None if betas is None else frozenset(betas))


def _fields(request: Request, *, betas: bool) -> dict[str, list[str]]:
    """Return the fields of a request as lines of JSON, by name; with the betas if asked for."""
    body = lasting_body(request.body or {})
    url = {"model": request.endpoint.model, "stream": request.endpoint.stream}
    values = {**body, _ORDER: list(body), _URL: url}
    if betas:
        values[_BETAS] = sorted(request.prompt.betas or ())
    return {name: _lines(value) for name, value in values.items()}


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^"]+')
_TEXT_LINE = re.compile(r"(?:[^\\]|\\[^n])*?\\n|.+", re.DOTALL)
_STRUCTURE_LINE = re.compile(r"[^,\[{]*[,\[{]|.+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _lines(value: object) -> list[str]:
    """Split a JSON value into lines: one for each line of its texts, and for each item.

    Joined, the lines are the value's compact JSON.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    lines, line = [], ""
    for token in _TOKEN.findall(text):
        pattern, ends = (_TEXT_LINE, "\\n") if token.startswith('"') else (_STRUCTURE_LINE, (",", "[", "{"))
        for piece in pattern.findall(token):
            line += piece
            if piece.endswith(ends):
                lines.append(line)
                line = ""
    return [*lines, line] if line else lines


def _edits(field: str, was: list[str], now: list[str]) -> list[Edit]:
    """Return the edits of one field, in order. Their places are indices of the recorded lines."""
    if was == now:
        return []
    begin, end = common_ends(was, now)
    old, new = was[begin : len(was) - end], now[begin : len(now) - end]
    if max(len(old), len(new)) > _MOSTLY * len(was) or not old or not new:
        opcodes = [("replace", 0, len(old), 0, len(new))]
    else:
        opcodes = [
            code
            for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            if code[0] != "equal"
        ]
    return [
        Edit(field, begin + first, tuple(old[first:last]), tuple(new[start:stop]))
        for _, first, last, start, stop in opcodes
    ]


# --- the file ----------------------------------------------------------------------------------------------


def accepted_path(baselines: Path) -> Path:
    """Return the path of the accepted requests that belong to a file of baselines."""
    return baselines.parent / "accepted" / baselines.name


def read_accepted(path: Path) -> Mapping[str, Sequence[AcceptedCassette]]:
    """Read the accepted requests of a file, by scenario name; none without a file.

    Raises BaselineError, which names the file, what is wrong in it and the next step.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return MappingProxyType({})
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path}: cannot be read: {error}.\n{_NEXT}") from error
    if conflict := conflict_in(text):
        raise BaselineError(
            f"{path}: holds conflict marks of a merge (line {conflict.line}).\n{resolve(path)}"
        )
    return _read(text, path)


def _read(text: str, path: Path) -> Mapping[str, Sequence[AcceptedCassette]]:
    try:
        return _parsed(load_yaml(text))
    except BaselineError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BaselineError(f"{path}: was merged or edited ({error}).\n{_NEXT}") from error


def read_sides(path: Path) -> Sequence[Mapping[str, Sequence[AcceptedCassette]]]:
    """Read a file of accepted requests that may be in conflict.

    Return what each of the two sides holds if it is in conflict, else one item: what the file holds. Raises
    BaselineError.
    """
    try:
        conflict = conflict_in(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        conflict = None
    if conflict is None or conflict.sides is None:
        return (read_accepted(path),)
    return tuple(_read(side, path) if side.strip() else {} for side in conflict.sides)


def accepted_of(
    baselines: Mapping[str, Baseline], sides: Sequence[Mapping[str, Sequence[AcceptedCassette]]]
) -> dict[str, Sequence[AcceptedCassette]]:
    """Return the accepted requests that `baselines` were measured on, from the side that has them."""
    return {
        name: side[name]
        for side in sides
        for name, baseline in baselines.items()
        if name in side and accepted_digest(side[name]) == baseline.accepted
    }


def parse_accepted(text: str, name: str) -> Sequence[AcceptedCassette]:
    """Read what `format_accepted` wrote of the scenario `name`; nothing from an empty text."""
    return _parsed(load_yaml(text))[name] if text else ()


@dataclass(frozen=True, slots=True)
class NewlyAccepted:
    """What requests of a scenario are accepted otherwise than before."""

    fields: Sequence[str] = ()
    """Fields of the requests: `system`, `tools`, ..."""
    sources: Sequence[Source] = ()
    """The lines, from the top of the repository, of the texts that were put in, if they are known."""
    tools: Sequence[str] = ()
    """Names of the tools that are accepted otherwise, if they are known."""


def newly_accepted(was: str, now: str) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Return what is accepted otherwise than it was: by scenario name, by field of its requests.

    `was` and `now` are the texts of an accepted file; empty where there is none. Of each field there is each
    text that edits put in and did not put in before, beside the text in whose place it stands. What cannot be
    read accepts nothing that could be named: the run itself fails on it.
    """
    found = {name: _newly(before, after) for name, before, after in _edits_of_both(was, now)}
    return {name: fields for name, fields in found.items() if fields}


def newly_changed_tools(was: str, now: str) -> dict[str, list[str]]:
    """Return the names of the tools that are accepted otherwise than they were, by scenario name.

    For the arguments see `newly_accepted`. What was accepted before names were written has none.
    """
    found = {
        name: {tool for tool, _ in _tools_of(before) ^ _tools_of(after)}
        for name, before, after in _edits_of_both(was, now)
    }
    return {name: sorted(tools) for name, tools in found.items()}


_Edits = Mapping[tuple[str, tuple[str, ...]], Edit]
"""The edits of a scenario, each once, by field and the lines that they add."""


def _edits_of_both(was: str, now: str) -> Iterator[tuple[str, _Edits, _Edits]]:
    """Yield each scenario of the text `now` with its edits in both texts; nothing if one cannot be read."""
    try:
        before, after = (_parsed(load_yaml(text)) if text else {} for text in (was, now))
    except (BaselineError, ValueError, LookupError, TypeError, AttributeError):
        return
    for name in after:
        yield name, _edits_of(before.get(name, ())), _edits_of(after[name])


def _tools_of(edits: _Edits) -> set[tuple[str, str]]:
    """Return the name and the digest of each tool that edits change."""
    return {tool for edit in edits.values() for tool in edit.tools.items()}


def _edits_of(cassettes: Sequence[AcceptedCassette]) -> _Edits:
    """Return the edits of a scenario by field and the lines that they add: each once, in order."""
    turns = (turn for cassette in cassettes for turn in cassette.turns)
    return {(edit.field, edit.added): edit for turn in turns for edit in turn.edits}


def _newly(before: _Edits, after: _Edits) -> dict[str, list[tuple[str, str]]]:
    """Return the new texts by field, each with what was accepted there before, or else recorded."""
    found: dict[str, list[tuple[str, str]]] = {field: [] for field, _ in sorted(before.keys() ^ after.keys())}
    for key, edit in after.items():
        if key not in before:
            accepted = [line for field, added in before if field == edit.field for line in added]
            found[edit.field].append((_unescaped(accepted or edit.removed), _unescaped(edit.added)))
    return found


def _unescaped(lines: Iterable[str]) -> str:
    """Return the text in lines of JSON (`_lines`), with its line ends; a quotation mark ends a line too."""
    text = re.sub(r'(\\.)|"', lambda match: match[1] or "\\n", "".join(lines))
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:  # edited by hand
        return text


_NEXT = next_step("Restore it from git, or take one side of the merge, then", UPDATE)


def merged_or_edited(path: Path, name: str) -> BaselineError:
    """Return the error for accepted requests that are not those of the baseline of `name`."""
    module = path.parents[2] / f"{path.stem}.py"
    update = next_step("Update this test", f"{UPDATE} {shlex.quote(f'{module}::{name}')}")
    if not path.exists():
        return BaselineError(
            f"{path}: is not there, and the baseline of {name} names accepted requests in it. Commit it with "
            f"the baselines, or write both anew.\n{update}"
        )
    return BaselineError(
        f"{path}: the accepted requests of {name} are not those of its baseline: one of the two files was "
        f"merged or edited.\n{update}"
    )


def _parsed(document: Any) -> dict[str, tuple[AcceptedCassette, ...]]:
    """Return the accepted requests of a document, by scenario name.

    Raises ValueError, LookupError, TypeError or AttributeError if it is not as this module writes it.
    """
    if document["version"] != VERSION:
        raise ValueError(
            f"version {document['version']!r} is not {VERSION}; a newer one needs the newer tool"
        )
    edits = {str(key): _edit(value) for key, value in document["edits"].items()}
    return {
        str(name): tuple(
            AcceptedCassette(cassette["recording"], tuple(_turn(turn, edits) for turn in cassette["turns"]))
            for cassette in cassettes
        )
        for name, cassettes in document["scenarios"].items()
    }


def _edit(value: Mapping[str, Any]) -> Edit:
    removed, added = (tuple(map(str, value[key])) for key in ("removed", "added"))
    tools = {str(name): str(accepted) for name, accepted in value.get("tools", {}).items()}
    return Edit(str(value["field"]), int(value["from"]), removed, added, tools)


def _turn(value: Mapping[str, Any], edits: Mapping[str, Edit]) -> AcceptedTurn:
    if value.get("gone"):
        return AcceptedTurn(int(value["of"]), Usage(), Basis.RECORDED, gone=True)
    usage = Usage(1, read_models(value["models"], "models"))
    keys = value.get("edits", ())
    put_in = tuple(edits[str(key)] for key in keys)
    volatile = bool(value.get("volatile", False))
    return AcceptedTurn(int(value["of"]), usage, Basis(value["basis"]), put_in, volatile=volatile)


def format_accepted(scenarios: Mapping[str, Sequence[AcceptedCassette]]) -> str:
    """Return the text of a file: sorted, one value a line, equal bytes for equal requests."""
    by_key: dict[str, dict[str, Any]] = {}
    tables = {
        name: [_cassette_table(cassette, by_key) for cassette in scenarios[name]]
        for name in sorted(scenarios)
    }
    edits = {key: by_key[key] for key in sorted(by_key)}
    return _HEADER + dump_yaml({"version": VERSION, "edits": edits, "scenarios": tables})


def _cassette_table(cassette: AcceptedCassette, by_key: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what is written of one recording, and add its edits to `by_key`."""
    return {"recording": cassette.recording, "turns": [_turn_table(turn, by_key) for turn in cassette.turns]}


def _turn_table(turn: AcceptedTurn, by_key: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if turn.gone:
        return {"of": turn.of, "gone": True}
    keys = []
    for edit in turn.edits:
        table = {
            "field": edit.field,
            "from": edit.start,
            "removed": list(edit.removed),
            "added": list(edit.added),
        }
        keys.append(digest(table)[:8])
        by_key[keys[-1]] = {**table, "tools": dict(edit.tools)} if edit.tools else table
    written = {"of": turn.of, "basis": str(turn.basis), "models": format_models(turn.usage.by_rate)}
    beside: dict[str, Any] = {"volatile": True} if turn.volatile else {}
    return {**written, **beside, "edits": keys} if keys else {**written, **beside}


def write_accepted(
    path: Path,
    changed: Mapping[str, Sequence[AcceptedCassette]],
    resolved: Mapping[str, Sequence[AcceptedCassette]] | None = None,
) -> bool:
    """Write `changed` over what the file holds; return whether the file was written.

    `resolved` is what it holds if it is in conflict. A scenario without accepted requests is removed, and so
    is a file without scenarios. Raises BaselineError if it cannot be read or written.
    """
    kept = read_accepted(path) if resolved is None else resolved
    merged = {name: tuple(value) for name, value in {**kept, **changed}.items() if value}
    if merged == dict(kept) and resolved is None:
        return False
    try:
        if merged:
            write_atomically(path, format_accepted(merged).encode())
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error
    return True
