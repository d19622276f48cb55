"""Secrets in a text: known values in every form they take on the wire, and keys that show by their shape."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, urlsplit

PLACEHOLDER = "REDACTED"

Span = tuple[int, int]

# A word begins here, also behind the letter of an escape in text that is JSON inside JSON ("\nsk-...").
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"

_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (marker, re.compile(pattern))
    for marker, pattern in (  # what every match contains, and the match; a group is hidden alone
        ("sk-ant-", r"sk-ant-[\w-]{10,}"),
        ("sk-", _START + r"sk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}"),  # OpenAI, OpenRouter, litellm
        ("sk_", _START + r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),  # Stripe
        ("rk_", _START + r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        ("A", _START + r"A(?:KI|SI|BI|CC)A[0-9A-Z]{16}(?![0-9A-Za-z])"),  # AWS
        ("ABSK", r"ABSK[A-Za-z0-9+/=]{40,}"),  # Bedrock
        ("bedrock-api-key-", r"bedrock-api-key-[\w+/=-]{20,}"),
        ("<Se", r"<(?:SecretAccessKey|SessionToken)>([^<]+)"),  # what AWS STS answers
        ("AIza", r"AIza[\w-]{35}"),  # Google
        ("ya29.", r"ya29\.[\w.-]{20,}"),
        ("gh", _START + r"gh[pousr]_[A-Za-z0-9]{36,}"),  # GitHub
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
_SHORTEST = 8  # characters; shorter values stand for themselves in too many texts
_SHORTEST_WORD = 16  # of letters only: `assistant` and `password` are words of every prompt


def secrets_of(environ: Mapping[str, str]) -> frozenset[str]:
    """The values of an environment that its names call secret, and the passwords in its URLs."""
    values = {value for name, value in environ.items() if _SECRET_NAME.search(name)}
    values |= {
        line.partition(":")[2].strip() for line in environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines()
    }
    for value in environ.values():
        if "://" in value:
            values.add(_password(value) or "")
    return frozenset(value for value in values if _is_secret(value))


class Secrets:
    """Finds and hides secrets. `values` are secrets that are known, `patterns` regular expressions of more.

    Values of fewer than 8 characters, and words of fewer than 16 letters, are left alone: prompts and the
    API's own vocabulary are full of them. Raises re.error where a pattern is none.
    """

    def __init__(self, values: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        known = {form for value in values if _is_secret(value) for form in _forms(value)}
        self._known = sorted(known, key=lambda form: (-len(form), form))
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._redacted: dict[str, str] = {}  # conversations repeat their texts on every turn

    def redact(self, text: str) -> str:
        """The text with a placeholder for each secret."""
        redacted = self._redacted.get(text)
        if redacted is None:
            redacted = self._redacted[text] = replace_spans(text, self.spans(text))
        return redacted

    def spans(self, text: str) -> list[Span]:
        """Where secrets are, in order, not overlapping."""
        merged: list[Span] = []
        for start, end in sorted(self._matches(text)):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

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


def replace_spans(text: str, spans: Iterable[Span]) -> str:
    """The text with a placeholder for each of the spans, which are in order."""
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
    """A value as it may stand in a text: itself, in JSON (twice, too), in a URL, in hex, in base64."""
    once = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    yield from (value, *once)
    yield from (json.dumps(form, ensure_ascii=False)[1:-1] for form in once)
    for escaped in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield from (escaped, re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), escaped))
    yield from (value.encode().hex(), value.encode().hex().upper())
    for offset in range(
        3
    ):  # base64 of a longer text that has the value in it: the characters it alone decides
        data = value.encode()
        encoded = base64.b64encode(bytes(offset) + data + bytes(2)).decode()
        form = encoded[(offset * 8 + 5) // 6 : (offset + len(data)) * 8 // 6]
        yield from (form, form.translate({ord("+"): "-", ord("/"): "_"}))
