"""Imports what a run of pytest needs, by an empty run: a process that is forked from this one has it."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

PATH = [entry for entry in sys.path if entry not in ("", str(Path(__file__).parents[1]))]
"""Where modules are found by `python -m pytest`, without the folder that it is started in."""

with TemporaryDirectory() as _folder, Path(os.devnull).open("w") as _nowhere, redirect_stdout(_nowhere):
    _quiet = ["-p", "no:cacheprovider", "-p", "no:rerunfailures"]  # which starts a thread
    pytest.main([*_quiet, "--rootdir", _folder, "--token-budget", _folder])
for _name in ("anthropic", "ctok", "genai_prices", "vcr"):
    if importlib.util.find_spec(_name) is not None:
        importlib.import_module(_name)
assert threading.active_count() == 1, "a process with threads is not safely forked"
