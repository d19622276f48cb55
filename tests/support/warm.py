"""The process that `apart.warm_python` forks: it has imported what a run of pytest or a command needs."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import importlib.util
import json
import os
import runpy
import select
import shutil
import signal
import socket
import ssl
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
EXAMPLE = Path(__file__).parents[2] / "example_project"


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
                    _keep(connection, str(Path(folder) / "python"))
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _import() -> None:
    """Import by a run of the example, for what pytest imports of a plugin is compiled in another way.

    What the SDK, pydantic and the counter make on first use is made as well. The example is unchanged, and so
    counts nothing: the vocabularies are loaded by a text. No module of the example stays.
    """
    read_certificates_once(pytest.MonkeyPatch())
    before = set(sys.modules)
    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        example = shutil.copytree(EXAMPLE, Path(folder) / "example")
        quiet = ["-p", "no:cacheprovider", "-p", "no:rerunfailures"]  # which starts a thread
        quiet += ["-o", "asyncio_default_fixture_loop_scope=function"]  # it warns where that is unset
        status = pytest.main([*quiet, "--rootdir", str(example), "--token-budget", str(example)])
        assert status == 0, "the example is not as its baselines have it"
        for name in set(sys.modules) - before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
                del sys.modules[name]
    from pytest_tokenbudget.metering.counting import best_counter
    from pytest_tokenbudget.metering.models import Family
    from support.budgeted import preload

    preload()
    counter = best_counter()
    for family in Family:
        counter.count("Load the vocabulary.", family)
    for name in ("xdist.remote", "xdist.workermanage"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # nobody needs to look through what stays
    assert threading.active_count() == 1, "a process with threads is not safely forked"


def read_certificates_once(patch: pytest.MonkeyPatch) -> None:
    """Keep the contexts of TLS: most of what a client costs is one with the certificates of this machine."""
    create = ssl.create_default_context
    for name in ("create_default_context", "_create_default_https_context"):  # the second is that of urllib
        patch.setattr(ssl, name, functools.cache(create))
    if importlib.util.find_spec("httpcore2") is not None:
        import httpcore2

        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))


def _keep(connection: socket.socket, executable: str) -> None:
    """Start the command that is asked for, tell its number and, however it ends, its status.

    It is killed where whoever asks for it is gone, as by a timeout.
    """
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as asked:
        command = json.loads(asked.read(int.from_bytes(size, "big")))
    wakes, ends = os.pipe()
    os.set_blocking(ends, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ends)
    process = os.fork()
    if process == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (wakes, ends, connection.detach()):
            os.close(end)
        _become(command, streams, executable)
    for stream in streams:
        os.close(stream)
    connection.sendall(b"%d\n" % process)
    if connection in select.select([connection, wakes], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    _, ended = os.waitpid(process, 0)
    with suppress(OSError):  # of a client that is gone
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def _become(command: Mapping[str, Any], streams: Sequence[int], executable: str) -> None:
    """Be the command; end with its status."""
    status = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # the server may have been told to ignore them
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(command["folder"])
        os.environ.clear()
        os.environ.update(command["environment"])
        for stream, own in zip(streams, range(3), strict=True):
            os.dup2(stream, own)
            os.close(stream)
        encoding = os.environ.get("PYTHONIOENCODING")
        sys.stdin = sys.__stdin__ = os.fdopen(0, encoding=encoding, closefd=False)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding=encoding, closefd=False)
        escaped = {"encoding": encoding, "errors": "backslashreplace"}
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False, **escaped)
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
    importlib.invalidate_caches()
    if option == "-m":
        sys.path[:] = [str(Path.cwd()), *given, *PATH]
        sys.argv[:] = rest
        if not hasattr(sys.modules.get(rest[0]), "__path__"):  # a module; what runs is executed anew
            sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.path[:] = ["", *given, *PATH]
        sys.argv[:] = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(rest[0], main.__dict__)
    elif option.startswith("-"):
        raise SystemExit(f"this Python takes -B, -u, -m and -c, not {option}")
    else:
        sys.path[:] = [str(Path(option).parent.resolve()), *given, *PATH]
        sys.argv[:] = [option, *rest]
        runpy.run_path(option, run_name="__main__")
