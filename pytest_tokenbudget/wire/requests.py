"""Read a request as it was sent: its prompt, and a digest without what differs on every run.

The creation of a message batch holds many requests, and its results hold as many answers, each by its
custom_id.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.wire.answers import answered
from pytest_tokenbudget.wire.endpoints import Endpoint, endpoint
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.framing import decode_body, parse_body
from pytest_tokenbudget.wire.prompt import LEVELS, Block, Prompt, parse_prompt

_ATTRIBUTION = "x-anthropic-billing-header"
"""Beginning of the system block that Claude Code adds; the API removes it before it caches or bills."""
_SESSION_HEADERS = ("x-claude-code-session-id", "x-claude-code-agent-id")
_BETAS = "anthropic-beta"
_KEPT_WITH_BETAS = (_BETAS, "anthropic-version", "user-agent")
"""Every client sends one of these headers. If a recording has none, which betas were sent is not known."""
TELLING_HEADERS = (*_KEPT_WITH_BETAS, *_SESSION_HEADERS)
"""All headers of a request that are read."""
_NOT_CANONICAL = (b'": ', b"\\u", b"\\/", b'"metadata"', b'"thread"', _ATTRIBUTION.encode())
"""A body without any of these bytes is its own canonical form: compact JSON with nothing to leave out."""


def read_request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    sort_keys: bool = False,
    texts: dict[str, str] | None = None,
) -> Request | None:
    """Read what an HTTP library sends, or a cassette holds, as a Messages request; None for other traffic.

    `headers` has lower-case names. A batch's creation has an empty prompt here: `read_batch_requests` reads
    its entries. Requests without a body (for a batch's state and results) have an empty prompt, too.

    Key order is part of a prompt, but a cassette whose serializer parses bodies loses it. With `sort_keys`,
    keys are read in alphabetical order, so that what the cassette holds and what is sent now compare.

    Long texts are those of `texts` where it has them, and enter it where not: a conversation sends all that
    was said before with each of its turns.
    """
    parsed = parse_body(body)
    if texts is not None and parsed is not None and len(body) >= _LARGE:
        _share(parsed, texts)
    if sort_keys and parsed is not None:
        parsed = sorted_keys(parsed)
        body = _compact(parsed)
    found = endpoint(method, url, parsed)
    if found is None or (parsed is None and found.api in ("messages", "count_tokens", "batch_create")):
        return None
    sessions = [headers[name] for name in _SESSION_HEADERS if headers.get(name)]
    return Request(
        endpoint=found,
        prompt=read_prompt(parsed or {}, found, headers),
        digest=_digest(method, found, body, parsed),
        session="/".join(sessions) or None,
        body=parsed,
        host=urlsplit(url).hostname or "",
    )


def meaning(request: Request) -> str:
    """Return a digest of a request that does not depend on key order, nor on what differs on every run.

    Types are strict: `true`, `1` and `1.0` differ.
    """
    where = request.endpoint
    body = json.dumps(lasting_body(request.body or {}), sort_keys=True, ensure_ascii=False)
    text = repr((where.api, where.model, where.stream, where.batch_id)) + body
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def first_difference(was: Request, now: Request) -> str | None:
    """Return where two requests first differ, as `system[0], character 41` (from 1); None if nowhere.

    A prompt is read block by block, in the order that the API renders: tools, system, messages.
    """
    for level in LEVELS:
        for before, after in itertools.zip_longest(was.prompt.level(level), now.prompt.level(level)):
            if before is None or after is None:
                return str((before or after).where)
            if before.digest != after.digest or before.ttl != after.ttl:
                found = _differs(before.content, after.content)
                return before.where + (found.path if found else "")
    return option.path if (option := first_other_value(was, now)) else None


class OtherValue(NamedTuple):
    """Where two JSON values first differ, and the values there; `MISSING` if there is none."""

    path: str
    was: object
    now: object


def first_other_value(was: Request, now: Request) -> OtherValue | None:
    """Return the first value that differs between the bodies of two requests, or None if none does."""
    found = _differs(lasting_body(was.body or {}), lasting_body(now.body or {}))
    return found and found._replace(path=found.path.removeprefix("."))


def _differs(was: object, now: object) -> OtherValue | None:
    """Return the first difference of two JSON values; None if they are equal.

    If it is in a text, the path names the character, from 1.
    """
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = (*now, *(key for key in was if key not in now))
        steps = (("" if key == "text" else f".{key}", key) for key in keys)
        return _first_below((step, was.get(key, MISSING), now.get(key, MISSING)) for step, key in steps)
    if isinstance(was, list) and isinstance(now, list):
        pairs = itertools.zip_longest(was, now, fillvalue=MISSING)
        return _first_below((f"[{number}]", *pair) for number, pair in enumerate(pairs))
    if isinstance(was, str) and isinstance(now, str) and was != now:
        return OtherValue(f", character {common_prefix(was, now) + 1}", was, now)
    return None if type(was) is type(now) and was == now else OtherValue("", was, now)


def _first_below(steps: Iterable[tuple[str, object, object]]) -> OtherValue | None:
    found = ((step, _differs(was, now)) for step, was, now in steps)
    return next((deeper._replace(path=step + deeper.path) for step, deeper in found if deeper), None)


MISSING = object()
"""Stands for a value that is not there."""


_LARGE = 32 * 1024
"""Bytes of a body from which its texts are shared with those of other requests."""
_LONG = 500
"""Characters of a text from which it is shared."""


def _share(body: dict[str, Any], texts: dict[str, str]) -> None:
    """Put the objects in `texts` in the place of equal long texts; `texts` gains those that it lacks."""
    left: list[Any] = [body]
    while left:
        container = left.pop()
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(value, str) and len(value) >= _LONG:
                container[key] = texts.setdefault(value, value)
            elif isinstance(value, (dict, list)):
                left.append(value)


def sorted_keys(value: Any) -> Any:
    """Return a JSON value with the keys of every object in alphabetical order."""
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def read_prompt(body: Mapping[str, Any], where: Endpoint, headers: Mapping[str, str]) -> Prompt:
    """Read the prompt of a request body, without Claude Code's attribution block; empty without messages."""
    if not isinstance(body.get("messages"), list):
        return Prompt(where.model or "unknown", ())
    betas = None
    if any(name in headers for name in _KEPT_WITH_BETAS):
        betas = [beta.strip() for beta in headers.get(_BETAS, "").split(",") if beta.strip()]
    prompt = parse_prompt(body, model=where.model, betas=betas, stream=where.stream)
    if not any(map(_is_attribution, prompt.blocks)):
        return prompt
    return replace(prompt, blocks=tuple(block for block in prompt.blocks if not _is_attribution(block)))


def _is_attribution(block: Block) -> bool:
    return block.level == "system" and str(block.content.get("text", "")).startswith(_ATTRIBUTION)


def _digest(method: str, where: Endpoint, body: bytes, parsed: Mapping[str, Any] | None) -> str:
    """Return what `digest_of` returns. Bytes that are canonical already are not written as JSON again."""
    if parsed is None or not any(mark in body for mark in _NOT_CANONICAL):
        return _hashed(method, where, body)
    return digest_of(method, where, parsed)


def digest_of(method: str, where: Endpoint, body: Mapping[str, Any]) -> str:
    """Return a digest of the endpoint and the canonical body: compact JSON in sent key order.

    The SDK writes bodies in that form. Host and path prefix are left out: a gateway or another base URL does
    not change what was asked.
    """
    return _hashed(method, where, canonical_body(body))


def _hashed(method: str, where: Endpoint, canonical: bytes) -> str:
    address = (method.upper(), where.api, where.model, where.stream, where.batch_id)
    return hashlib.blake2b(repr(address).encode() + canonical, digest_size=16).hexdigest()


def canonical_body(body: Mapping[str, Any]) -> bytes:
    """Return a request body as compact JSON in its key order, without what differs on every run."""
    return _compact(lasting_body(body))


def lasting_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request body in its key order, without what differs on every run."""
    kept = {key: value for key, value in body.items() if key not in ("metadata", "thread")}
    if isinstance(system := kept.get("system"), list):
        kept["system"] = [block for block in system if not _names_attribution(block)]
    if isinstance(entries := kept.get("requests"), list):
        kept["requests"] = [_without_metadata(entry) for entry in entries]
    return kept


def _compact(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _names_attribution(block: object) -> bool:
    return isinstance(block, Mapping) and str(block.get("text", "")).startswith(_ATTRIBUTION)


def _without_metadata(entry: object) -> object:
    if not isinstance(entry, Mapping) or not isinstance(params := entry.get("params"), Mapping):
        return entry
    return {**entry, "params": {key: value for key, value in params.items() if key != "metadata"}}


def read_batch_requests(
    request: Request, headers: Mapping[str, str], body: bytes, *, sort_keys: bool = False
) -> tuple[Request, ...]:
    """Read the entries of a batch's creation as requests of their own, in order; empty for other requests.

    `request` is what `read_request` made of the same headers and body, with the same `sort_keys`.
    """
    if request.endpoint.api != "batch_create":
        return ()
    parsed = parse_body(body) or {}
    entries = (sorted_keys(parsed) if sort_keys else parsed).get("requests")
    return tuple(
        _entry(request, headers, str(entry.get("custom_id")), entry["params"])
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("params"), Mapping)
    )


def _entry(
    request: Request, headers: Mapping[str, str], custom_id: str, params: Mapping[str, Any]
) -> Request:
    endpoint = replace(request.endpoint, api="messages")
    return Request(
        endpoint=endpoint,
        prompt=read_prompt(params, endpoint, headers),
        digest=digest_of("BATCH", endpoint, params),
        session=request.session,
        custom_id=custom_id,
        body=params,
        host=request.host,
    )


def rewritten(
    request: Request, body: Mapping[str, Any], endpoint: Endpoint, betas: frozenset[str] | None
) -> Request:
    """Return `request` with another body, endpoint and betas (None: not known)."""
    headers = {} if betas is None else {_BETAS: ",".join(sorted(betas))}
    return replace(
        request,
        endpoint=endpoint,
        prompt=read_prompt(body, endpoint, headers),
        digest=digest_of("POST" if request.custom_id is None else "BATCH", endpoint, body),
        body=body,
    )


def read_batch_results(headers: Mapping[str, str], body: bytes, request: Request) -> dict[str, Answer]:
    """Return the answers in a batch's results (JSONL, in any order) by custom_id; `request` asked for them.

    Only succeeded entries are billed, at the batch rate. The others have status 0, since they have no HTTP
    status, and the API's error type, `canceled` or `expired` as their error. Raises CassetteError if a line
    is no result.
    """
    answers: dict[str, Answer] = {}
    for number, line in enumerate(decode_body(headers, body).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            answers[str(entry["custom_id"])] = _answer(entry["result"], request)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise CassetteError(
                f"Line {number} of recorded batch results is no result of a message batch. Record it anew."
            ) from None
    return answers


def _answer(result: Mapping[str, Any], request: Request) -> Answer:
    kind = str(result["type"])
    if kind != "succeeded":
        error = result.get("error") or {}
        error = error.get("error") or error  # the API wraps it: {"type": "error", "error": {...}}
        return Answer(0, error=str(error.get("type", kind)))
    return answered(200, result["message"], request.endpoint, "unknown", batch=True)
