"""Run a command against the server: `-m support.messages_api --script MODULE:FUNCTION [-- COMMAND ...]`.

The command gets ANTHROPIC_BASE_URL and a made-up ANTHROPIC_API_KEY, and its exit status is passed on; without
a command the server runs until it is interrupted. The ledger is at GET /_charges.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import threading

from .server import MessagesApi


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="support.messages_api", description=__doc__)
    parser.add_argument("--script", required=True, help="MODULE:FUNCTION, from a request body to an answer")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    module, _, function = options.script.partition(":")
    script = getattr(importlib.import_module(module), function)
    with MessagesApi(script, port=options.port) as api:
        if not options.command:
            print(f"ANTHROPIC_BASE_URL={api.url}", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                return 0
        environment = {**os.environ, "ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "sk-ant-made-up"}
        return subprocess.run(options.command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
