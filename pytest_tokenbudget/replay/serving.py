"""A recorded answer as it is served now: in the framing that is asked for, plain, and without a wait."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pytest_tokenbudget.replay.traffic import Sent, answer_body, lower, status
from pytest_tokenbudget.wire.transcode import transcode
from pytest_tokenbudget.wire.usage import decode_body

_LENGTH_AND_CODING = ("content-encoding", "content-length", "transfer-encoding")


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


def with_custom_ids(results: bytes, names: Mapping[str, str]) -> bytes:
    """Batch results under the names that their entries have now; lines that are no JSON stay."""
    return b"\n".join(_renamed(line, names) for line in results.split(b"\n"))


def _renamed(line: bytes, names: Mapping[str, str]) -> bytes:
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
