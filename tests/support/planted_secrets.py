"""Secrets of twenty kinds, made up by a seed: none of them opens anything, and none stands in a file."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PATTERN = r"ACME-[0-9a-f]{20}"
"""What a user hides beside the known shapes, as a setting."""
PIECE = 8
"""Characters of a secret that no text may show."""

_MIXED = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Planted:
    """A secret, and the text that it is planted as."""

    kind: str
    text: str
    core: str
    """What is secret in it: all of it that others do not have in common."""

    def is_in(self, text: str) -> bool:
        """Whether a piece of the secret stands in a text."""
        return any(self.core[at : at + PIECE] in text for at in range(max(len(self.core) - PIECE, 0) + 1))


def planted(seed: int, each: int = 10) -> list[Planted]:
    """Return `each` secrets of each kind; those of an environment are to be set by `environment`."""
    draw = random.Random(seed)  # they are to be the same on every run
    return [
        Planted(kind, make(core := drawn(draw)), core)
        for kind, (drawn, make) in _KINDS.items()
        for _ in range(each)
    ]


def environment(secrets: list[Planted]) -> dict[str, str]:
    """Return the variables that hold the secrets which are known by their names alone."""
    known = [secret.core for secret in secrets if secret.kind == "environment"]
    return {f"SERVICE_{number}_TOKEN": value for number, value in enumerate(known)}


def _of(length: int, characters: str = _MIXED) -> Callable[[random.Random], str]:
    """A word that has a digit and a capital in it, as keys have."""

    def drawn(draw: random.Random) -> str:
        return "".join(draw.choices(characters, k=length - 2)) + draw.choice("23456789") + "K"

    return drawn


def _hexadecimal(draw: random.Random) -> str:
    return "".join(draw.choices("0123456789abcdef", k=20))


def _token(draw: random.Random) -> str:
    claims = {"sub": "".join(draw.choices(_MIXED, k=24))}
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")[len("eyJ") :]


def _lines(draw: random.Random) -> str:
    return "\n".join("".join(draw.choices(_MIXED + "+/", k=64)) for _ in range(4))


def _after(prefix: str, *more: str) -> Callable[[str], str]:
    return lambda core: "".join((prefix, *more)) + core


_UPPER = string.ascii_uppercase + string.digits
_KINDS: dict[str, tuple[Callable[[random.Random], str], Callable[[str], str]]] = {
    "anthropic": (_of(60), _after("sk-", "ant-api03-")),
    "openai": (_of(48), _after("sk", "-proj-")),
    "stripe": (_of(24), _after("sk", "_live_")),
    "aws": (_of(16, _UPPER), _after("AK", "IA")),
    "bedrock": (_of(60), _after("AB", "SK")),
    "bedrock session": (_of(40), _after("bedrock-", "api-key-")),
    "google": (_of(35), _after("AI", "za")),
    "google oauth": (_of(40), _after("ya", "29.")),
    "github": (_of(36), _after("gh", "p_")),
    "github fine-grained": (_of(60), _after("github", "_pat_")),
    "gitlab": (_of(20), _after("gl", "pat-")),
    "slack": (_of(24), _after("xo", "xb-")),
    "hugging face": (_of(34), _after("h", "f_")),
    "npm": (_of(36), _after("np", "m_")),
    "pypi": (_of(80), _after("py", "pi-AgE")),
    "web token": (_token, lambda core: f"eyJhbGciOiJub25lIn0.eyJ{core}.c2ln"),
    "bearer": (_of(30), _after("Authorization: ", "Bearer ")),
    "database": (_of(18), lambda core: f"postgres://app:{core}@db.example/orders"),
    "private key": (
        _lines,
        lambda core: f"-----BEGIN {'PRIVATE'} KEY-----\n{core}\n-----END {'PRIVATE'} KEY-----",
    ),
    "environment": (_of(26), str),
    "pattern": (_hexadecimal, _after("ACME-")),
}


def by_kind(secrets: list[Planted]) -> Iterator[tuple[str, list[Planted]]]:
    """Yield each kind with its secrets."""
    for kind in _KINDS:
        yield kind, [secret for secret in secrets if secret.kind == kind]
