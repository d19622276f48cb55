"""What never reaches a cassette: keys, cookies, and who the account and the person are.

Headers are kept by an allowlist, since gateways and clouds name theirs as they like. Everything else that is
written is searched for the secrets of this run in every form, and for keys of known shapes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.json_body import as_bytes
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.redacted_body import redact_body
from pytest_tokenbudget.replay.secret_text import PLACEHOLDER, Secrets, secrets_of
from pytest_tokenbudget.wire.bodies import decode_body

KEPT_OF_REQUESTS = frozenset(
    {"accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "x-app"}
    | {"x-stainless-lang", "x-stainless-package-version", "x-stainless-retry-count"}
    | {"x-stainless-helper", "x-stainless-helper-method", "x-stainless-stream-helper"}
    | {f"x-claude-code-{who}-id" for who in ("session", "agent", "parent-agent")}  # tell subagents apart
)
KEPT_OF_ANSWERS = frozenset(
    {"content-type", "content-encoding", "date", "location", "link", "etag", "last-modified", "allow"}
    | {"retry-after", "retry-after-ms", "x-should-retry", "x-amzn-errortype", "x-amzn-bedrock-content-type"}
    | {
        f"x-amzn-bedrock-{what}-token-count"
        for what in ("input", "output", "cache-read-input", "cache-write-input")
    }
)
_IDS = frozenset({"request-id", "x-request-id", "x-amzn-requestid"})
"""Kept, for what reads them, with a placeholder."""

_SECRET_HEADER = re.compile(
    r"(?:proxy-)?authorization|(?:set-)?cookie|(?:.*-)?(?:key|token|secret|auth|credential)"
    r"|anthropic-(?:organization|workspace|user-profile)-id|openai-(?:organization|project)|.*request-?id"
)
_SECRET_PARAMETER = re.compile(
    r"(?i:api[-_]?key|key|.*access[-_]token|refresh[-_]token|id[-_]token|token|client[-_]secret|secret|password"
    r"|code|assertion|sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token))"
)
_PARAMETER = re.compile(r"(?P<before>(?:^|[&?;])(?P<name>[^=&;]*)=)(?P<value>[^&;]*)")


def redact(
    interactions: Iterable[Interaction], *, secrets: Iterable[str] = (), patterns: Sequence[str] = ()
) -> list[Interaction]:
    """The interactions as they may be written; those given stay as they are.

    `secrets` are values known to this run (`secrets_of(os.environ)`); what its sensitive headers carried is
    found by itself. `patterns` are the user's regular expressions; where one has a group, the first group is
    hidden. Answers still parse, with the usage they had; redacting twice changes nothing more.
    """
    interactions = list(interactions)
    values = {*secrets, *(value for pair in interactions for part in pair for value in _header_secrets(part))}
    known = Secrets(values, patterns)
    return [
        (redact_request(request, known), redact_answer(answer, known)) for request, answer in interactions
    ]


class Redactor:
    """Hides in a request of this run what a recording of it would hide, so that the two compare.

    `environ` and `patterns` are what recordings are redacted by.
    """

    def __init__(self, environ: Mapping[str, str], patterns: Sequence[str] = ()) -> None:
        self._environ = environ
        self._patterns = patterns
        self._secrets: dict[frozenset[str], Secrets] = {}  # each remembers the texts that it has searched

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request without secrets."""
        values = secrets_of(self._environ).union(_header_secrets(request))
        secrets = self._secrets.get(values)
        if secrets is None:
            secrets = self._secrets[values] = Secrets(values, self._patterns)
        return redact_request(request, secrets)


def redact_request(request: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    """One request, without secrets.

    A recorded request is redacted, so compare it with the redacted form of the one that is sent now.
    """
    body = as_bytes(request["body"])
    if body and _names_form(request):
        body = _without_parameters(body.decode("latin-1")).encode("latin-1")
    return {
        "method": request["method"],
        "uri": _redact_uri(request["uri"], secrets),
        "body": redact_body(body, secrets) if body else body,
        "headers": _kept_headers(request, KEPT_OF_REQUESTS, secrets),
    }


def redact_answer(answer: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    """One answer, without secrets."""
    redacted = {
        key: _redact_value(value, secrets) for key, value in answer.items() if key not in ("headers", "body")
    }
    headers = _kept_headers(answer, KEPT_OF_ANSWERS | _IDS, secrets)
    headers |= {name: [PLACEHOLDER] for name in headers if name.lower() in _IDS}
    redacted["headers"] = headers
    if "body" in answer:
        redacted["body"] = {
            **answer["body"],
            "string": _answer_body(headers, answer["body"].get("string"), secrets),
        }
    return redacted


def _answer_body(headers: dict[str, list[Any]], body: Any, secrets: Secrets) -> bytes | None:
    """Redacts the plain body; `headers` lose the content encoding that is undone."""
    content = as_bytes(body)
    if not content:
        return content
    encoding = {"content-encoding": ",".join(_texts(headers, "content-encoding"))}
    try:
        plain = decode_body(encoding, content)
    except CassetteError:  # a compression that this Python cannot undo: it cannot be searched either
        return content
    if plain != content:
        for name in [name for name in headers if name.lower() == "content-encoding"]:
            del headers[name]
    return redact_body(plain, secrets)


def _redact_value(value: Any, secrets: Secrets) -> Any:
    if isinstance(value, str):
        return _redact_uri(value, secrets) if "://" in value else secrets.redact(value)
    if isinstance(value, Mapping):
        return {key: _redact_value(item, secrets) for key, item in value.items()}
    return value


# --- headers ----------------------------------------------------------------------------------------------


def _kept_headers(part: Mapping[str, Any], kept: frozenset[str], secrets: Secrets) -> dict[str, list[Any]]:
    return {
        name: [secrets.redact(_text(value)) for value in _values(values)]
        for name, values in (part.get("headers") or {}).items()
        if name.lower() in kept
    }


def _header_secrets(part: Mapping[str, Any]) -> Iterator[str]:
    """What the sensitive headers of a request or an answer carried."""
    for name, values in (part.get("headers") or {}).items():
        if _SECRET_HEADER.fullmatch(name.lower()):
            for value in map(_text, _values(values)):
                yield from _cookies(value) if name.lower().endswith("cookie") else _credentials(value)


def _credentials(value: str) -> Iterator[str]:
    scheme, _, rest = value.strip().rpartition(" ")
    yield rest
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(rest).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return
        yield from (user, password)


def _cookies(value: str) -> Iterator[str]:
    try:
        yield from (morsel.value for morsel in SimpleCookie(value).values())
    except CookieError:
        yield value.partition("=")[2].partition(";")[0]


def _values(values: Any) -> Iterable[Any]:
    return [values] if isinstance(values, (str, bytes)) else values


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _texts(headers: Mapping[str, Any], wanted: str) -> list[str]:
    return [
        _text(value)
        for name, values in headers.items()
        if name.lower() == wanted
        for value in _values(values)
    ]


def _names_form(part: Mapping[str, Any]) -> bool:
    return any("x-www-form-urlencoded" in text for text in _texts(part.get("headers") or {}, "content-type"))


# --- addresses --------------------------------------------------------------------------------------------


def _redact_uri(uri: str, secrets: Secrets) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return secrets.redact(uri)
    host = parts.netloc.rpartition("@")[2]
    return secrets.redact(urlunsplit(parts._replace(netloc=host, query=_without_parameters(parts.query))))


def _without_parameters(query: str) -> str:
    def hide(match: re.Match[str]) -> str:
        name = unquote_plus(match["name"])
        return f"{match['before']}{PLACEHOLDER}" if _SECRET_PARAMETER.fullmatch(name) else match[0]

    return _PARAMETER.sub(hide, query)
