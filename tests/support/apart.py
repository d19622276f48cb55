"""Runs of pytest in processes of their own, forked from one that has imported what each of them needs.

A process that starts from nothing spends most of its time on importing the SDK and the plugins.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

HERE = str(Path(__file__).parents[1])
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 600.0
"""Seconds after which a run is taken to hang."""


def run_pytest(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Return status, output of `python -B -m pytest ARGUMENTS` in `folder`, with this environment only."""
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(["support.warm"])
    with TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        said = Path(temporary) / "said"
        patch.setenv("PYTHONPATH", HERE)  # where the server finds what it imports
        process = context.Process(target=_run, args=(str(folder), arguments, dict(environment), str(said)))
        process.start()
        process.join(PATIENCE)
        if hangs := process.exitcode is None:
            process.kill()
            process.join()
        output = said.read_text("utf-8", errors="replace") if said.exists() else ""
    assert not hangs, f"pytest {' '.join(arguments)} did not end in {PATIENCE:.0f} s: {output}"
    assert process.exitcode is not None
    return process.exitcode, output


def _run(folder: str, arguments: Sequence[str], environment: Mapping[str, str], said: str) -> None:
    """Make this process what `python -B -m pytest` would be."""
    from support import warm

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(encoding=environment.get("PYTHONIOENCODING"))
    sys.dont_write_bytecode = True
    given = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [folder, *given, *warm.PATH]
    sys.argv[:] = [str(Path(pytest.__file__).with_name("__main__.py")), *arguments]
    sys.exit(pytest.main())
