"""A recorded answer as it is served now: in the framing that is asked for, plain, and without a wait."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.sent import Sent, lower
from pytest_tokenbudget.replay.traffic import answer_body, status
from pytest_tokenbudget.wire.bodies import decode_body, parse_body
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.transcode import transcode

_LENGTH_AND_CODING = ("content-encoding", "content-length", "transfer-encoding")


class Answers:
    """The recorded answers of one cassette as they are served in one run."""

    def __init__(self, *, untouched: bool) -> None:
        """`untouched`: as vcr serves them."""
        self._serve = _untouched if untouched else served
        self._names: dict[str, dict[str, str]] = {}  # of a batch's entries, by its id: recorded -> now

    def name(self, created: Mapping[str, Any], recorded: Iterable[Request], now: Iterable[Request]) -> None:
        """Learn what the entries of a batch are called now, from the answer that created it."""
        batch = parse_body(answer_body(created)) or {}
        names = {str(was.custom_id): str(entry.custom_id) for was, entry in zip(recorded, now, strict=True)}
        self._names[str(batch.get("id"))] = {was: name for was, name in names.items() if was != name}

    def serve(self, answer: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
        """A copy of a recorded answer, for `sent`. Raises CassetteError as `served` does."""
        names = {}
        if sent.request is not None and sent.request.endpoint.api == "batch_results":
            names = self._names.get(str(sent.request.endpoint.batch_id), {})
        if not names:
            return self._serve(answer, sent)
        results = served(answer, sent)
        lines = results["body"]["string"].split(b"\n")
        return results | {"body": {"string": b"\n".join(_renamed(line, names) for line in lines)}}


def served(answer: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """A copy of a recorded answer, for `sent`.

    A failed attempt asks to be retried after a millisecond instead of what the server asked for. Raises
    CassetteError where the body cannot be decoded or has no form that `sent` can read.
    """
    headers, body = lower(answer.get("headers")), answer_body(answer)
    changes: dict[str, str | None] = {}
    if sent.request is not None and sent.request.endpoint.api == "messages":
        changes, body = transcode(headers, body, sent.request)
    answer = plain(answer, body)
    if status(answer) >= 400:
        changes |= {"retry-after": None, "retry-after-ms": "1"}
    answer["headers"] = _with(answer["headers"], changes)
    return answer


def _untouched(answer: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """A copy of a recorded answer as vcr serves it, unless `sent` can only read another framing."""
    with contextlib.suppress(CassetteError):  # then the client is the one to read it
        if sent.request is not None and sent.request.endpoint.api == "messages":
            headers = lower(answer.get("headers"))
            if transcode(headers, answer_body(answer), sent.request)[0]:
                return served(answer, sent)
    return dict(answer)


def plain(answer: Mapping[str, Any], body: bytes | None = None) -> dict[str, Any]:
    """A copy of an answer in vcr's shape, its body decompressed. Raises CassetteError where it cannot."""
    body = answer_body(answer) if body is None else body
    body = decode_body(lower(answer.get("headers")), body)
    headers = _with(answer.get("headers") or {}, dict.fromkeys(_LENGTH_AND_CODING))
    rest = {
        key: value
        for key, value in answer.items()
        if key not in ("headers", "body", "content", "status_code")
    }
    code = {"code": status(answer), "message": (answer.get("status") or {}).get("message")}
    return {**rest, "status": code, "headers": headers, "body": {"string": body}}


def _renamed(line: bytes, names: Mapping[str, str]) -> bytes:
    """A line of batch results under the name that its entry has now; what is no JSON stays."""
    try:
        entry = json.loads(line)
        name = names[entry["custom_id"]]
    except (ValueError, LookupError, TypeError):
        return line
    return json.dumps({**entry, "custom_id": name}, ensure_ascii=False, separators=(",", ":")).encode()


def _with(headers: Mapping[str, Any], changes: Mapping[str, str | None]) -> dict[str, list[Any]]:
    """A copy of headers with some set, and some (None) removed, whatever their case."""
    kept = {
        name: list(values) if isinstance(values, (list, tuple)) else [values]
        for name, values in headers.items()
        if name.lower() not in changes
    }
    return kept | {name: [value] for name, value in changes.items() if value is not None}
