"""An environment for each generation of the SDK: `make test-generations` sets them up, as locks/ has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def python_of(generation: str) -> str:
    """Return the interpreter that has this generation of the SDK, such as "0.x"."""
    minor = "{}.{}".format(*sys.version_info)
    python = REPOSITORY / f".venv-{_name(generation)}-{minor}" / "bin" / "python"
    assert python.exists(), f"{python} is missing: run make test-generations PYTHON={sys.executable}"
    return str(python)


def version_in(python: str) -> str:
    """Return the version of the SDK that this interpreter has."""
    code = "from importlib.metadata import version; print(version('anthropic'))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def locked_version(generation: str) -> str:
    """Return the version of the SDK that the lock of this generation names."""
    lock = (REPOSITORY / "locks" / f"{_name(generation)}.txt").read_text("utf-8")
    (version,) = re.findall(r"^anthropic==(\S+)", lock, re.M)
    return str(version)


def _name(generation: str) -> str:
    return "sdk-" + generation.partition(".")[0]
