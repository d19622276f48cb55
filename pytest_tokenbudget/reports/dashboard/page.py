"""The dashboard: one HTML file without a request to anywhere. The only module that knows Jinja2."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.document import Document
from pytest_tokenbudget.reports.history import History
from pytest_tokenbudget.reports.page.build import Page, page

if TYPE_CHECKING:
    from jinja2 import Environment

_EMBEDDED_CHARACTERS = 500_000
"""A longer document is embedded compressed, so that 500 scenarios stay a file of a few megabytes."""


def dashboard(
    document: Document | None, history: History | None, *, runs_per_month: float | None = None
) -> str:
    """The page of a run, of a history, or of both: HTML that holds its style, pictures, script and data.

    Its content policy allows that style and that script by their hashes and nothing else. Raises ReportError
    where Jinja2 is not installed.
    """
    shown = page(document, history, runs_per_month)
    style, script = _text("dashboard.css") + _labels(shown), _text("dashboard.js")
    packed = _packed(document) if document else None
    return (
        _environment()
        .get_template("dashboard.html")
        .render(
            page=shown,
            patterns=charts.PATTERNS,
            style=style,
            script=script,
            policy=_policy(style, script),
            document=document,
            packed=packed,
        )
    )


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ReportError(
            'The HTML report needs Jinja2. Install it with `pip install "pytest-tokenbudget[html]"`.'
        ) from error
    environment = Environment(
        loader=PackageLoader("pytest_tokenbudget.reports.dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _text(name: str) -> str:
    """A file of the templates, as it comes to stand in the page: hashes are of characters."""
    return files("pytest_tokenbudget.reports.dashboard").joinpath("templates", name).read_text("utf-8")


def _labels(page: Page) -> str:
    """Style that says in each cell what its column is, for where there is no room for headers."""
    titles = [*page.columns, *(["Trend"] if page.trends else [])]
    tables = {"scenarios > tbody > tr:first-child >": titles, "models": page.model_headers}
    return "".join(
        f'.{table} td:nth-child({place}) {{ --column: "{title}"; }}\n'
        for table, headers in tables.items()
        for place, title in enumerate(headers, 2)
    )


def _policy(style: str, script: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _packed(document: Document) -> str | None:
    """A long document as JSON, gzipped, in base64; None where it is short enough to be embedded as it is."""
    text = json.dumps(document, separators=(",", ":"))
    if len(text) <= _EMBEDDED_CHARACTERS:
        return None
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()
