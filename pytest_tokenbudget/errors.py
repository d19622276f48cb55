"""Define every error that a user can meet: each says what is wrong, where, and the next step."""

from __future__ import annotations

from typing import ClassVar


class TokenBudgetError(Exception):
    """Base of all user errors; its text is one or more plain sentences, the last one the next step.

    A command stands on a line of its own, which two spaces begin.
    """

    docs: ClassVar[str] = "troubleshooting.md"
    """The page and heading of the docs that has more of its kind."""

    @property
    def more(self) -> str:
        """The line that stands below its text wherever a user meets it."""
        return f"More: docs/{self.docs}"


class SettingsError(TokenBudgetError):
    """A marker argument, an option or a key of `[tool.tokenbudget]` that cannot be used."""

    docs = "settings.md#tooltokenbudget-of-pyprojecttoml"


class CassetteError(TokenBudgetError):
    """A cassette that cannot be read or written."""

    docs = "troubleshooting.md#files"


class BaselineError(TokenBudgetError):
    """A baseline file that cannot be read or written."""

    docs = "troubleshooting.md#files"


class ReportError(TokenBudgetError):
    """A report or document that cannot be read or written."""

    docs = "commands.md#the-document"


class RecordingError(TokenBudgetError):
    """Recording or a live run that must stop: no key, or the spend limit is reached."""

    docs = "troubleshooting.md#recording-and-live-runs"


class GitError(TokenBudgetError):
    """Git lacks something or cannot say it: no such base, a shallow history, no repository."""

    docs = "troubleshooting.md#git-and-github"


class GitHubError(TokenBudgetError):
    """A request that GitHub refuses, or does not answer."""

    docs = "troubleshooting.md#git-and-github"


class TokenBudgetWarning(UserWarning):
    """Something is not metered, or not as exactly as was asked; it fails nothing by itself."""


class ReplayMiss(BaseException):
    """A request that the recording cannot answer.

    A BaseException, so that neither the SDK's retries nor an agent's `except Exception` swallow it.
    """
