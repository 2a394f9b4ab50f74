"""Says that process 0 was lost, in the place of a process that could not.

    python bystander.py HOST:PORT MESSAGE

runs beside each process but process 0, and reads what its process writes to it until that ends. If
it ended without a word, and nobody answers at the address of process 0, the message goes to
standard error.
"""

import signal
import socket
import sys


def main(address: str, message: str) -> None:
    """Waits for the end of the other process, and prints `message` if process 0 is gone."""
    # SIGTERM is meant for the other process, which then ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
