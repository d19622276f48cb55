"""The process that `apart.warm_python` forks: it has imported what a run of pytest or a command needs."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest

PATH = [entry for entry in sys.path if entry not in ("", str(Path(__file__).parents[1]))]
"""Where Python finds modules, without the folder that it is started in."""


def serve() -> None:
    """Become each command that is asked for at `socket` in the folder that is named, until stdin ends."""
    (folder,) = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(folder) / "socket"))
        listener.listen()
        _import()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while listener in select.select([listener, 0], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _answer(connection, str(Path(folder) / "python"))
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _import() -> None:
    """Import by an empty run, for what pytest imports of a plugin is compiled in another way."""
    from support.budgeted import preload

    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        quiet = ["-p", "no:cacheprovider", "-p", "no:rerunfailures"]  # which starts a thread
        pytest.main([*quiet, "--rootdir", folder, "--token-budget", folder])
    preload()
    for name in ("xdist.remote", "xdist.workermanage"):
        importlib.import_module(name)
    assert threading.active_count() == 1, "a process with threads is not safely forked"


def _answer(connection: socket.socket, executable: str) -> None:
    """Be the command that is asked for; end with its status."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as asked:
        command: Mapping[str, Any] = json.loads(asked.read(int.from_bytes(size, "big")))
    connection.sendall(b"%d\n" % os.getpid())
    status = 1
    try:
        os.chdir(command["folder"])
        os.environ.clear()
        os.environ.update(command["environment"])
        for stream, own in zip(streams, range(3), strict=True):
            os.dup2(stream, own)
            os.close(stream)
        for text in (sys.stdout, sys.stderr):
            text.reconfigure(encoding=os.environ.get("PYTHONIOENCODING"))  # type: ignore[union-attr]
        sys.executable = executable
        _run(command["arguments"])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:  # as Python itself tells it
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        with suppress(OSError):
            connection.sendall(b"%d\n" % status)
        os._exit(status)


def _run(arguments: Sequence[str]) -> None:
    """Do what `python ARGUMENTS` does."""
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    option, *rest = arguments
    while option in ("-B", "-u"):
        if option == "-B":
            sys.dont_write_bytecode = True
        else:
            sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        option, *rest = rest
    what, *rest = rest
    sys.path[:] = [str(Path.cwd()) if option == "-m" else "", *given, *PATH]
    importlib.invalidate_caches()
    if option == "-m":
        sys.argv[:] = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.argv[:] = ["-c", *rest]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(what, main.__dict__)
    else:
        raise SystemExit(f"this Python takes -B, -u, -m and -c, not {option}")
