"""Hands a command line of Python to a process that has imported everything, and ends as that ends.

Run without `site`, and with few imports: each one of them is a good part of what it costs.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    place, *arguments = sys.argv[1:]
    asked = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    data = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        socket.send_fds(connection, [len(data).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(data)
        answers = connection.makefile("rb")
        process = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(process, number))
        status = int(answers.readline())
    if status < 0:  # a signal ended it
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
