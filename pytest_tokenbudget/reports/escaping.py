"""Text of others in Markdown and in workflow commands: nothing of it is markup, a mention or a link."""

from __future__ import annotations

import re
from html import escape

from pytest_tokenbudget.reports.text import plain

_BREAK = "\u200b"
"""Zero width space. Takes the meaning of what GitHub looks for in text, and no room."""
_MARKUP = re.compile(r"([\\`*_\[\]~$])")
_LINKED = re.compile(
    r"(?P<mention>@)(?=\w)"
    r"|(?P<reference>#|GH-)(?=\d)"
    r"|(?P<scheme>:)(?=//)"
    r"|(?P<host>www)(?=\.)"
    r"|(?P<emoji>:)(?=[a-z+-][\w+-]*:)"
    r"|(?P<commit>[0-9a-f]{7,})",
    re.IGNORECASE,
)


def prose(text: str) -> str:
    """`text` as words in a paragraph, a list or a cell.

    GitHub looks for mentions, references, addresses and commits after the Markdown is rendered, where no
    escape is left: a break of no width takes them apart.
    """
    broken = _MARKUP.sub(r"\\\1", _LINKED.sub(_break, plain(text)))
    return broken.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")


def code(text: str, *, cell: bool = False) -> str:
    """`text` as code, in which GitHub looks for nothing; in a cell its `|` are escaped."""
    shown = plain(text).strip() or " "
    if cell:
        shown = shown.replace("\\|", f"\\{_BREAK}|").replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    edge = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def html(text: str) -> str:
    """`text` inside an HTML element of one line."""
    return escape(_LINKED.sub(_break, plain(text)))


def html_code(text: str) -> str:
    """`text` as an HTML element in which GitHub looks for nothing."""
    return f"<code>{escape(plain(text))}</code>"


def _break(found: re.Match[str]) -> str:
    if found["commit"] is None:
        return found[0] + _BREAK
    return _BREAK.join(re.findall(".{1,6}", found[0]))  # GitHub takes seven digits for a commit


def command_data(text: str) -> str:
    """`text` as the message of a GitHub workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command_property(text: str) -> str:
    """`text` as the value of a property of a GitHub workflow command."""
    return command_data(text).replace(":", "%3A").replace(",", "%2C")
