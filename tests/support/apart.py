"""Python in processes of their own, forked from one that has imported what each of them needs.

A process that starts from nothing spends most of its time on importing pytest, the SDK and the plugins.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

TESTS = Path(__file__).parents[1]
COLD = sys.executable
"""Python that starts from nothing."""
PATIENCE = 600.0
"""Seconds after which a run is taken to hang."""


@functools.cache
def warm_python() -> str:
    """Return the path of a command that runs scripts, `-m` and `-c` as Python does, without its imports.

    It takes -B and -u before them. As for Python, output, status, environment and signals are its own; the
    seed of its hashes is not.
    """
    folder = Path(mkdtemp(prefix="warm-python-"))
    named = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    server = subprocess.Popen(
        [COLD, "-c", "from support import warm; warm.serve()", str(folder)],
        env=named | {"PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(_end, server)
    client = shlex.join([COLD, "-ISE", str(TESTS / "support/warm_client.py"), str(folder / "socket")])
    command = folder / "python"
    command.write_text(f'#!/bin/sh\nexec {client} "$@"\n', "utf-8")
    command.chmod(0o755)
    assert server.stdout.readline() == b"listening\n"
    return str(command)


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


def run_pytest(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Return status, output of `python -B -m pytest ARGUMENTS` in `folder`, with this environment only."""
    done = subprocess.run(
        [warm_python(), "-B", "-m", "pytest", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")
