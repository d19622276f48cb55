"""Keep keys, cookies, accounts and people out of cassettes, reports and messages.

Headers are kept by an allowlist, since gateways and clouds name theirs as they like. Everything else that is
written is searched for the secrets of this run, in every form that they take on the wire, and for keys of
known shapes: in JSON, JSON lines, server-sent events, Bedrock's event streams, and any other text. A secret
that a stream cuts into pieces is found in the text that the pieces make together. Messages and reports quote
prompts and addresses, and shorten their quotes: `Redactor.text` therefore hides pieces of secrets as well.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus, urlsplit, urlunsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.cassette_file import ENCODINGS, USUAL, Interaction, as_bytes, parse_json
from pytest_tokenbudget.wire.framing import (
    decode_body,
    looks_like_event_stream,
    read_event_stream,
    write_event_stream,
)
from pytest_tokenbudget.wire.prompt import text_digest

LEFT_AFTER = "x-left-after-ms"
"""Tells after how many milliseconds a call was left that has no answer."""
KEPT_OF_REQUESTS = frozenset(
    {"accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "x-app"}
    | {"x-stainless-lang", "x-stainless-package-version", "x-stainless-retry-count"}
    | {"x-stainless-helper", "x-stainless-helper-method", "x-stainless-stream-helper"}
    | {f"x-claude-code-{who}-id" for who in ("session", "agent", "parent-agent")}  # tell subagents apart
)
KEPT_OF_ANSWERS = frozenset(
    {"content-type", "content-encoding", "date", "location", "link", "etag", "last-modified", "allow"}
    | {LEFT_AFTER}
    | {"retry-after", "retry-after-ms", "x-should-retry", "x-amzn-errortype", "x-amzn-bedrock-content-type"}
    | {
        f"x-amzn-bedrock-{what}-token-count"
        for what in ("input", "output", "cache-read-input", "cache-write-input")
    }
)
_IDS = frozenset({"request-id", "x-request-id", "x-amzn-requestid"})
"""Headers of answers whose values are replaced by the placeholder; programs may need their presence."""

_SECRET_HEADER = re.compile(
    r"(?:proxy-)?authorization|(?:set-)?cookie|(?!idempotency-)(?:.*-)?(?:key|token|secret|auth|credential)"
    r"|anthropic-(?:organization|workspace|user-profile)-id|openai-(?:organization|project)|.*request-?id"
)
_SECRET_PARAMETER = re.compile(
    r"(?i:api[-_]?key|key|.*access[-_]token|refresh[-_]token|id[-_]token|token|client[-_]secret|secret|password"
    r"|code|assertion|sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token))"
)
_PARAMETER = re.compile(r"(?P<before>(?:^|[&?;])(?P<name>[^=&;]*)=)(?P<value>[^&;]*)")
_ADDRESSED = re.compile(r"(?P<before>[&?;](?P<name>[\w%.-]+)=)(?P<value>[^&;\s\"'<>]+)")
"""A query parameter of an address within a text."""


def redact(
    interactions: Iterable[Interaction], *, secrets: Iterable[str] = (), patterns: Sequence[str] = ()
) -> list[Interaction]:
    """Return the interactions as they may be written; those given stay unchanged.

    `secrets` are values known to this run (`secrets_of(os.environ)`); what the sensitive headers carried is
    found without them. `patterns` are the user's regular expressions; if one has a group, only its first
    group is hidden. Answers still parse and have the same usage. Redacting twice gives the same as redacting
    once.
    """
    interactions = list(interactions)
    values = {*secrets, *(value for pair in interactions for part in pair for value in _header_secrets(part))}
    known = Secrets(values, patterns)
    return [
        (redact_request(request, known), redact_answer(answer, known)) for request, answer in interactions
    ]


class Redactor:
    """Hide the secrets of a run: in its requests as recordings do, and in every text that leaves it.

    `environ` and `patterns` are those by which recordings are redacted. Thread-safe.
    """

    def __init__(self, environ: Mapping[str, str], patterns: Sequence[str] = ()) -> None:
        self._environ = environ
        self._patterns = patterns
        self._secrets: dict[frozenset[str], Secrets] = {}  # kept: each remembers the texts it has searched
        self._noticed: frozenset[str] = frozenset()
        """Secrets that the headers of requests carried."""
        self._pieces: set[str] = set()
        """All pieces, of `_PIECE` characters each, of the secrets that were found in request bodies."""
        self._lock = threading.Lock()

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request without secrets, so that it compares with a recorded one."""
        return redact_request(request, self._knowing(_header_secrets(request)))

    def hide(self, patterns: Sequence[str]) -> None:
        """Replace the patterns: from now on, hide what these regular expressions match instead."""
        with self._lock:
            self._patterns, self._secrets = patterns, {}

    def notice(self, request: Mapping[str, Any]) -> None:
        """Remember the keys that a request carries in its headers, so that `text` hides them."""
        lasting = {value for value in _header_secrets(request) if not value.startswith("Signature=")}
        with self._lock:
            self._noticed |= lasting

    def learn(self, body: Any) -> None:
        """Remember the secrets of a JSON body, so that `text` hides them even where a quote is cut off."""
        found = set(_secrets_in(body, self._knowing(self._noticed), _NAMED))
        with self._lock:
            self._pieces.update(
                secret[start : start + _PIECE]
                for secret in found
                for start in range(len(secret) - _PIECE + 1)
            )

    def text(self, text: str) -> str:
        """Return a text that may leave this run: without secrets, and without pieces of those learned."""
        shown = self._knowing(self._noticed).redact(_ADDRESSED.sub(_hide_parameter, text))
        with self._lock:
            pieces = (start for start in range(len(shown)) if shown[start : start + _PIECE] in self._pieces)
            return replace_spans(shown, _merged((start, start + _PIECE) for start in pieces))

    def _knowing(self, values: Iterable[str]) -> Secrets:
        """Return the finder for the environment's secrets and these values."""
        known = secrets_of(self._environ).union(values)
        secrets = self._secrets.get(known)
        if secrets is None:
            secrets = self._secrets[known] = Secrets(known, self._patterns)
        return secrets


def redact_request(request: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    """Return a request in vcr's shape without secrets.

    A recorded request is redacted, so compare it with the redacted form of the request that is sent now.
    """
    body = as_bytes(request["body"])
    if body and _names_form(request):
        body = _without_parameters(body.decode("latin-1")).encode("latin-1")
    return {
        "method": request["method"],
        "uri": redact_uri(request["uri"], secrets),
        "body": redact_body(body, secrets) if body else body,
        "headers": _kept_headers(request, KEPT_OF_REQUESTS, secrets),
    }


def redact_answer(answer: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    """Return an answer in vcr's shape without secrets."""
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
    """Return the redacted plain body. If it was compressed, also remove its encoding from `headers`."""
    content = as_bytes(body)
    if not content:
        return content
    encoding = {"content-encoding": ",".join(_header_values(headers, "content-encoding"))}
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
        return redact_uri(value, secrets) if "://" in value else secrets.redact(value)
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
    """Yield the secrets that the sensitive headers of a request or an answer carry."""
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


def _header_values(headers: Mapping[str, Any], wanted: str) -> list[str]:
    return [
        _text(value)
        for name, values in headers.items()
        if name.lower() == wanted
        for value in _values(values)
    ]


def _names_form(part: Mapping[str, Any]) -> bool:
    return any(
        "x-www-form-urlencoded" in text for text in _header_values(part.get("headers") or {}, "content-type")
    )


# --- addresses --------------------------------------------------------------------------------------------


def redact_uri(uri: str, secrets: Secrets) -> str:
    """Return an address without user and password, and without the values of secret query parameters."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return secrets.redact(uri)
    host = parts.netloc.rpartition("@")[2]
    return secrets.redact(urlunsplit(parts._replace(netloc=host, query=_without_parameters(parts.query))))


def _without_parameters(query: str) -> str:
    return _PARAMETER.sub(_hide_parameter, query)


def _hide_parameter(match: re.Match[str]) -> str:
    name = unquote_plus(match["name"])
    return f"{match['before']}{PLACEHOLDER}" if _SECRET_PARAMETER.fullmatch(name) else match[0]


Path = tuple[str | int, ...]

_NAMED = re.compile(
    r"(?i)request_id|user_profile_id|organization_id|workspace_id|api_?key|(?:access|refresh|id)_?token"
    r"|client_?secret|password|private_?key|secret_?access_?key|session_?token"
)
"""JSON fields that are hidden whole because of their name, but not inside of the conversation."""
_CONVERSATION = frozenset({"messages", "system", "tools", "content", "input", "delta"})
_OF_METADATA = re.compile("user_id")
_DATA = re.compile(r"((?:data:[ \t]*)?)(\{.*\})(\s*)")


def redact_body(body: bytes, secrets: Secrets) -> bytes:
    """Return the body without secrets; the same object if it holds none."""
    if looks_like_event_stream(body):
        return _redact_event_stream(body, secrets)
    value, encoding = parse_json(body)
    if encoding is not None:
        redacted = redact_json(value, secrets)
        return body if redacted == value else ENCODINGS[encoding].encode(redacted).encode()
    text = body.decode("utf-8", "surrogateescape")  # binary bodies are searched as they are
    redacted_text = secrets.redact(_redact_structure(text, secrets))
    return body if redacted_text == text else redacted_text.encode("utf-8", "surrogateescape")


def redact_json(value: Any, secrets: Secrets, *, names: re.Pattern[str] | None = _NAMED) -> Any:
    """Return a JSON value without secrets in its texts and keys.

    `names` matches the fields whose texts are hidden whole; None: no fields.
    """
    if isinstance(value, str):
        return secrets.redact(value)
    if isinstance(value, list):
        return [redact_json(item, secrets, names=names) for item in value]
    if not isinstance(value, dict):
        return value
    redacted = {}
    for key, item in value.items():
        if names is not None and names.fullmatch(key) and isinstance(item, str) and item:
            redacted[secrets.redact(key)] = PLACEHOLDER
        else:
            redacted[secrets.redact(key)] = redact_json(item, secrets, names=_names_below(key, names))
    return redacted


def _names_below(key: str, names: re.Pattern[str] | None) -> re.Pattern[str] | None:
    """Return which fields are hidden whole below the field `key`, if `names` are hidden beside it.

    Below the parts of a conversation: none. Below `metadata`: `user_id` alone. Else the same `names`.
    """
    return None if key in _CONVERSATION else _OF_METADATA if key == "metadata" and names else names


def _secrets_in(value: Any, secrets: Secrets, names: re.Pattern[str] | None) -> Iterator[str]:
    """Yield each secret that `redact_json` hides in a JSON value."""
    if isinstance(value, str):
        if secrets.redact(value) != value:  # which is remembered: a conversation repeats its texts
            yield from (value[start:end] for start, end in secrets.spans(value))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets_in(item, secrets, names)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if names is not None and names.fullmatch(key) and isinstance(item, str):
                yield item
            yield from _secrets_in(key, secrets, None)
            yield from _secrets_in(item, secrets, _names_below(key, names))


def _redact_event_stream(body: bytes, secrets: Secrets) -> bytes:
    try:
        events = list(read_event_stream(body))
    except ValueError:  # damaged, or not Bedrock's
        text = body.decode("utf-8", "surrogateescape")
        return secrets.redact(text).encode("utf-8", "surrogateescape")
    redacted = _redact_events(events, secrets)
    return body if redacted == events else write_event_stream(redacted)


def _redact_structure(text: str, secrets: Secrets) -> str:
    """Redact JSON that none of our encodings reproduces, or lines of JSON; only changes are written anew."""
    try:
        value = json.loads(text)
        redacted = redact_json(value, secrets)
        return text if redacted == value else ENCODINGS[USUAL].encode(redacted)
    except (ValueError, RecursionError):
        return _redact_lines(text, secrets)


def _redact_lines(text: str, secrets: Secrets) -> str:
    """Redact lines of JSON. Lines with `data:` are pieces of one text; each other line stands for itself."""
    lines: list[str] = text.split("\n")
    parsed = [(number, *found) for number, line in enumerate(lines) if (found := _parse_line(line))]
    stream = iter(_redact_events([event for _, head, event, _ in parsed if head], secrets))
    for number, head, event, tail in parsed:
        new = next(stream) if head else redact_json(event, secrets)
        if new != event:
            lines[number] = f"{head}{ENCODINGS[USUAL].encode(new)}{tail}"
    return "\n".join(lines)


def _parse_line(line: str) -> tuple[str, Any, str] | None:
    """Split a line into (`data:` or nothing, its JSON object, the blanks behind it); None for other lines."""
    match = _DATA.fullmatch(line)
    try:
        return (match[1], json.loads(match[2]), match[3]) if match else None
    except (ValueError, RecursionError):
        return None


def _redact_events(events: Sequence[Any], secrets: Secrets) -> list[Any]:
    return [redact_json(event, secrets) for event in _redact_joined(events, secrets)]


def _redact_joined(events: Sequence[Any], secrets: Secrets) -> Sequence[Any]:
    """Hide secrets that a stream cut into pieces.

    The texts at one place of the events, for example `delta.text` of one block, are searched as one text.
    """
    places: dict[object, list[tuple[int, Path]]] = defaultdict(list)
    for number, event in enumerate(events):
        block = event.get("index") if isinstance(event, dict) else None
        for path in _event_texts(event, ()):
            places[block, path].append((number, path))
    changed = list(events)
    for pieces in places.values():
        texts = [_at(events[number], path) for number, path in pieces]
        spans = secrets.spans("".join(texts)) if len(texts) > 1 else []
        for (number, path), old, new in zip(pieces, texts, _cut(texts, spans), strict=True):
            if new != old:
                changed[number] = _with(changed[number], path, new)
    return changed


def _event_texts(value: Any, path: Path) -> Iterator[Path]:
    """Yield the path of every string in a JSON value."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _event_texts(item, (*path, key))


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: Path, text: str) -> Any:
    """Return a copy of the JSON value with another text at a path."""
    if not path:
        return text
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], text)
    return copy


def _cut(pieces: Sequence[str], spans: Sequence[Span]) -> Iterator[str]:
    """Yield the pieces of a text without the spans, which count from the start of the whole text.

    The placeholder stands where a span begins.
    """
    start = 0
    for piece in pieces:
        end = start + len(piece)
        parts, done = [], start
        for first, last in spans:
            if first < end and last > start:
                if first >= start:
                    parts += [piece[done - start : first - start], PLACEHOLDER]
                done = min(last, end)
        yield "".join([*parts, piece[done - start :]])
        start = end


PLACEHOLDER = "REDACTED"

Span = tuple[int, int]

# The start of a word. That is also behind an escape: "\nsk-..." and "\u003dsk-..." in JSON inside of JSON,
# "%3Dsk-..." in an URL inside of an URL.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=\\u00[0-9A-Fa-f]{2})|(?<=%[0-9A-Fa-f]{2}))"

_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (marker, re.compile(pattern))
    # A text that every match contains, and the pattern, of which only a group is hidden. The letters of these
    # texts occur in the base64 of images, so a key ends where keys do.
    for marker, pattern in (
        ("sk-ant-", r"sk-ant-[\w-]{10,}"),
        ("sk-", _START + r"sk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}"),  # OpenAI, OpenRouter, litellm
        ("sk_", _START + r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),  # Stripe
        ("rk_", _START + r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        *(
            (name, _START + name + r"[0-9A-Z]{16}(?![0-9A-Za-z])")  # AWS
            for name in ("AKIA", "ASIA", "ABIA", "ACCA")
        ),
        ("ABSK", _START + r"ABSK[A-Za-z0-9+/=]{40,400}(?![A-Za-z0-9+/=])"),  # Bedrock
        ("bedrock-api-key-", r"bedrock-api-key-[\w+/=-]{20,}"),
        ("<Se", r"<(?:SecretAccessKey|SessionToken)>([^<]+)"),  # what AWS STS answers
        ("AIza", _START + r"AIza[\w-]{35}(?![\w-])"),  # Google
        ("ya29.", r"ya29\.[\w.-]{20,}"),
        *((f"gh{kind}_", _START + rf"gh{kind}_[A-Za-z0-9]{{36,}}") for kind in "pousr"),  # GitHub
        ("github_pat_", r"github_pat_\w{22,}"),
        ("glpat-", r"glpat-[\w-]{20,}"),  # GitLab
        ("xox", _START + r"xox[abeoprs]-[\w-]{10,}"),  # Slack
        ("hf_", _START + r"hf_[A-Za-z0-9]{30,}"),  # Hugging Face
        ("npm_", _START + r"npm_[A-Za-z0-9]{36}"),
        ("pypi-", r"pypi-AgE[\w-]{50,}"),
        ("eyJ", r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"),  # JSON Web Token
        ("earer", r"(?i:bearer)\s+((?=[\w.~+/=-]*[0-9])[\w.~+/=-]{16,})"),
        ("://", r"://[^\s/@:\"']*:([^\s/@\"']+)@"),  # the password of a URL
        ("req_", _START + r"req_[A-Za-z0-9]{16,}"),  # Anthropic's request ids
        (
            "PRIVATE KEY-----",
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\sA-Za-z0-9+/=\\:,.-]*?-----END [A-Z0-9 ]*-----",
        ),
        ("PRIVATE KEY-----", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\sA-Za-z0-9+/=\\]*"),  # cut off
    )
)

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:API_?)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|COOKIE|PAT)$", re.I
)
_SHORTEST = 8  # characters; shorter values occur in too many texts by chance
_PIECE = _SHORTEST
"""Characters of a secret's piece: that many in a row are hidden."""
_SHORTEST_WORD = 16  # of letters only: `assistant` and `password` are words of every prompt


def secrets_of(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the values of an environment whose names call them secret, and the passwords in its URLs."""
    values = {value for name, value in environ.items() if _SECRET_NAME.search(name)}
    values |= {
        line.partition(":")[2].strip() for line in environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines()
    }
    for value in environ.values():
        if "://" in value:
            values.add(_password(value) or "")
    return frozenset(value for value in values if _is_secret(value))


class Secrets:
    """Find and hide secrets: known `values`, keys of known shapes, and what the regular expressions match.

    Values of fewer than 8 characters, and words of fewer than 16 letters, are left alone: prompts and the
    API's own vocabulary are full of them. Raises re.error if a pattern is no regular expression.
    """

    def __init__(self, values: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        known = {form for value in values if _is_secret(value) for form in _forms(value)}
        self._known = sorted(known, key=lambda form: (-len(form), form))
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._clean: set[bytes] = set()  # digests: conversations repeat their texts on every turn

    def redact(self, text: str) -> str:
        """Return the text with a placeholder for each secret."""
        key = text_digest(text)
        if key in self._clean:
            return text
        spans = self.spans(text)
        if not spans:
            self._clean.add(key)
        return replace_spans(text, spans)

    def spans(self, text: str) -> list[Span]:
        """Return where secrets stand in a text, as (start, end), in order and not overlapping."""
        return _merged(sorted(self._matches(text)))

    def _matches(self, text: str) -> Iterator[Span]:
        for form in self._known:
            start = text.find(form)
            while start >= 0:
                yield start, start + len(form)
                start = text.find(form, start + 1)
        shapes = [pattern for marker, pattern in _SHAPES if marker in text]
        for pattern in (*shapes, *self._patterns):
            for match in pattern.finditer(text):
                start, end = match.span(1 if pattern.groups and match[1] is not None else 0)
                if start < end:
                    yield start, end


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join overlapping spans. `spans` must be in order of their starts."""
    merged: list[Span] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def replace_spans(text: str, spans: Iterable[Span]) -> str:
    """Return the text with a placeholder for each span; `spans` must be in order and not overlap."""
    parts, done = [], 0
    for start, end in spans:
        parts += [text[done:start], PLACEHOLDER]
        done = end
    return "".join([*parts, text[done:]])


def _is_secret(value: str) -> bool:
    if value == PLACEHOLDER or any("\ud800" <= char <= "\udfff" for char in value):
        return False
    return len(value) >= (_SHORTEST_WORD if value.isalpha() else _SHORTEST)


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None


def _forms(value: str) -> Iterator[str]:
    """Yield the forms that a value may have in a text: plain, JSON (once and twice), URL, hex, base64."""
    once = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    yield from (value, *once)
    yield from (json.dumps(form, ensure_ascii=False)[1:-1] for form in once)
    for escaped in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield from (escaped, re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), escaped))
    yield from (value.encode().hex(), value.encode().hex().upper())
    for offset in range(3):  # base64 of a longer text: the characters that the value in it alone decides
        data = value.encode()
        encoded = base64.b64encode(bytes(offset) + data + bytes(2)).decode()
        form = encoded[(offset * 8 + 5) // 6 : (offset + len(data)) * 8 // 6]
        yield from (form, form.translate({ord("+"): "-", ord("/"): "_"}))
