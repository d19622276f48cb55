"""An environment for each generation of the SDK: made once by venv and pip, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
EXTRAS = "aiohttp,bedrock"
BESIDE = ("boto3", "pytest")


def python_of(requirement: str) -> str:
    """The interpreter of an environment with this SDK; making it asks the package index once."""
    wanted = sorted({*_of_the_plugin(), *BESIDE, requirement.replace("anthropic", f"anthropic[{EXTRAS}]")})
    key = hashlib.sha256(repr((sys.version, wanted)).encode()).hexdigest()[:16]
    folder = _cache() / f"sdk-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True, timeout=600)
        ready.touch()
    return str(python)


def version_in(python: str) -> str:
    """Of the SDK."""
    code = "from importlib.metadata import version; print(version('anthropic'))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _of_the_plugin() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    return [name for name in project["dependencies"] if not name.startswith("anthropic")]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pytest-tokenbudget-tests"
