"""Says that process 0 was lost, in the place of a process that could not.

    python coordinator_lost.py HOST:PORT MESSAGE

runs beside each other process and reads what that one writes to it, until it ends. If it ended
without a word, and nobody answers at the address of process 0, the message goes to standard error.
"""

import signal
import socket
import sys


def main(address: str, message: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the other one, which then ends
    if sys.stdin.buffer.read():
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
