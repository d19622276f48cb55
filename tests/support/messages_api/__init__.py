"""A small Messages API server on loopback, for tests: scripted answers, usage that follows the prompt.

It counts on its own and shares no code with pytest_tokenbudget, so that it can judge it. Typical use:

    with MessagesApi(lambda body: "Hello") as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        ...
        assert api.charges[0].usage.output_tokens == 4

A script is a pure function from a request body to the answer's content: a string, or a list of `text(...)`
and `tool_use(...)` blocks. It runs in the request's own thread, so it may sleep; the prompt cache behaves
as it would while a slow answer is under way.
"""

from .api import ApiError, Charge, Script, Usage, tool_use
from .server import SECRETS, MessagesApi, Received

__all__ = [
    "SECRETS",
    "ApiError",
    "Charge",
    "MessagesApi",
    "Received",
    "Script",
    "Usage",
    "tool_use",
]
