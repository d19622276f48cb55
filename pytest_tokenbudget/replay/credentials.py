"""Stand in for the credentials that clients insist on, while a run replays and makes no real call.

Only the Python code of this process sees a stand-in: no child process gets it, no report and no cassette
holds it, and `Ledger` refuses to send it anywhere.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAND_IN = "replay-needs-no-key"
"""The stand-in for a key. No server accepts it."""
_SENT = re.compile(rf"{STAND_IN}(?![-\w])")
"""Finds the stand-in, but no key of `token_budget_proxy`, which begins with it and is longer."""
_GOOGLE_FILE = str(Path(__file__).with_name("google_stand_in.json"))
"""Google's clients read credentials from a file. With these they ask for a token, which a ledger answers."""
TOKEN = {"access_token": STAND_IN, "expires_in": 3600, "token_type": "Bearer"}
"""What Google would answer, but for the token (RFC 6749, section 5.1)."""


@dataclass(frozen=True, slots=True)
class _Credential:
    """A credential, or a region, that one kind of client insists on."""

    names: tuple[str, ...]
    """Environment variables, one of which is enough for the client."""
    values: Mapping[str, str]
    """Variables that stand in; only those that are not set are used."""
    elsewhere: tuple[str, ...] = ()
    """Variables which show that the user gives the credential in another way."""
    files: tuple[str, ...] = ()
    """Files below the home folder which show the same."""

    def is_missing(self, environ: Mapping[str, str], *, everywhere: bool) -> bool:
        """Return whether the user does not give it. Only `everywhere` looks further than `names`."""
        if any(environ.get(name) for name in self.names):
            return False
        if not everywhere:
            return True
        home = Path(environ.get("HOME") or environ.get("USERPROFILE") or "/")
        return not (
            any(map(environ.get, self.elsewhere)) or any((home / file).exists() for file in self.files)
        )


_AWS_FILES = (".aws/credentials", ".aws/config")
_AWS_ELSEWHERE = (
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_CREDENTIALS = (
    _Credential(("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"), {"ANTHROPIC_API_KEY": STAND_IN}),
    _Credential(("ANTHROPIC_FOUNDRY_API_KEY",), {"ANTHROPIC_FOUNDRY_API_KEY": STAND_IN}),
    _Credential(
        ("AWS_ACCESS_KEY_ID", "AWS_BEARER_TOKEN_BEDROCK"),
        {
            "AWS_ACCESS_KEY_ID": STAND_IN,
            "AWS_SECRET_ACCESS_KEY": STAND_IN,
            "AWS_EC2_METADATA_DISABLED": "true",  # else botocore asks a server for them
        },
        _AWS_ELSEWHERE,
        _AWS_FILES,
    ),
    _Credential(
        ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
        {"AWS_DEFAULT_REGION": "us-east-1"},
        ("AWS_CONFIG_FILE",),
        _AWS_FILES,
    ),
    _Credential(("CLOUD_ML_REGION",), {"CLOUD_ML_REGION": "us-east5"}),
    _Credential(
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        {"GOOGLE_APPLICATION_CREDENTIALS": _GOOGLE_FILE},
        ("CLOUDSDK_CONFIG",),
        (".config/gcloud/application_default_credentials.json",),
    ),
)


def chosen(environ: Mapping[str, str], *, everywhere: bool = False) -> dict[str, str]:
    """Return the variables that stand in for what an environment lacks, by name.

    With `everywhere`, what the user keeps in a profile or in a file of the home folder counts as given, since
    other code of the process may use it.
    """
    missing = [one for one in _CREDENTIALS if one.is_missing(environ, everywhere=everywhere)]
    return {name: value for one in missing for name, value in one.values.items() if not environ.get(name)}


@contextlib.contextmanager
def standing_in(
    environ: MutableMapping[str, str] = os.environ, *, everywhere: bool = False
) -> Iterator[Mapping[str, str]]:
    """Put stand-ins into an environment, yield them by name, and restore every variable at the end.

    Variables that are set stay as they are. Child processes do not get the stand-ins.
    """
    values = chosen(environ, everywhere=everywhere)
    before = {name: environ.get(name) for name in values}
    environ.update(values)
    if environ is os.environ:
        for name in values:
            os.unsetenv(name)  # out of the C environment, which children inherit by default
    try:
        with _kept_from_children(values):
            yield values
    finally:
        for name, value in before.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value


@contextlib.contextmanager
def _kept_from_children(values: Mapping[str, str]) -> Iterator[None]:
    """Keep these variables out of the environment of every child that `subprocess` starts meanwhile."""
    cls, original = subprocess.Popen, subprocess.Popen.__init__
    signature = inspect.signature(original)
    active = True

    @functools.wraps(original)
    def start(*args: Any, **kwargs: Any) -> None:
        if not active:
            return original(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        environ = given.arguments.get("env")
        environ = os.environ if environ is None else environ
        if any(environ.get(name) == value for name, value in values.items()):
            left = {name: value for name, value in environ.items() if values.get(name) != value}
            given.arguments["env"] = left
        return original(*given.args, **given.kwargs)

    cls.__init__ = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        active = False
        if cls.__init__ is start:  # else other code wraps it: it stays and passes on
            cls.__init__ = original  # type: ignore[method-assign]


def without_stand_ins(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables whose value stands in for a key."""
    return {name: value for name, value in environ.items() if value not in (STAND_IN, _GOOGLE_FILE)}


def holds_stand_in(headers: Mapping[str, str]) -> bool:
    """Return whether request headers would show a server a stand-in, as a key or as a signature's name."""
    return any(_SENT.search(value) for value in headers.values())


def asks_for_a_token(body: bytes) -> bool:
    """Return whether a form asks for a token and shows the stand-in as what that is given for."""
    return body.startswith(b"grant_type=") and _SENT.search(body.decode("latin-1")) is not None
