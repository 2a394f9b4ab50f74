"""Several processes, one per host: how they find each other, share, agree, and end.

The runtime is JAX's own (`jax.distributed`). This module adds what it leaves open: one line for
what cannot be started, the name of the process that was lost, and gathering of bytes.
"""

import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from massformer_jax.errors import InputError
from massformer_jax.parallel import bystander, sharding

HEARTBEAT_SECONDS = 30  # a process that is silent for so long is lost
LOST_STATUS = 3

_ending = threading.Event()
_watcher: threading.Thread | None = None
_bystander: subprocess.Popen | None = None


def initialize(
    coordinator: str | None, processes: int | None, process: int | None, *, until_saved: bool
) -> None:
    """Connects this process with the others; without arguments as the cluster says.

    This has to come before anything else of JAX. All devices of the host belong to this process. If
    another process is lost later on, this one says which and ends with `LOST_STATUS`.

    Args:
        coordinator: address HOST:PORT of process 0, the same for all; None on a Cloud TPU, under
            Slurm, and on Kubernetes where JAX finds it out itself.
        processes: how many there are.
        process: number of this one, from 0.
        until_saved: whether SIGTERM does not end this process, but is left to
            `training.stopping.stop_notice`.

    Raises:
        InputError: the arguments are not complete, or nothing was found out.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        _check(*given)
    # Else one process waits at another's step for ever: only the watch below ends it.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", until_saved)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # Under Slurm JAX would take one GPU per process, where nothing else is said.
            local_device_ids=[],
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            "--distributed: found neither a Cloud TPU, nor Slurm, nor Kubernetes to start from "
            f"({' '.join(str(error).split())}); pass --coordinator=HOST:PORT --processes=N "
            "--process=I"
        ) from error
    hosts = [host.decode() for host in gather_bytes(socket.gethostname().encode())]
    if len(hosts) > 1:
        _watch(hosts)


def several() -> bool:
    """Tells whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Tells whether this is the process that prints, and writes what is written once."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints the line, on the first process."""
    if is_first():
        print(line, flush=True)


def wait_for_all() -> None:
    """Waits until every process has come here."""
    gather_bytes(b"")


def gather_bytes(mine: bytes) -> list[bytes]:
    """Returns what each process passed, in order of the processes, on all of them."""
    if jax.process_count() == 1:
        return [mine]
    lengths = multihost_utils.process_allgather(np.asarray(len(mine), np.int32))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(mine)] = np.frombuffer(mine, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def on_local_devices(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays of all processes' devices, replicated over a mesh of this process's own.

    All processes have to call this. What is replicated already is not copied.
    """
    here = sharding.replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, here)
    leaves = jax.tree.leaves(tree)
    if not all(x.is_fully_replicated for x in leaves):
        everywhere = sharding.replicated(leaves[0].sharding.mesh)
        tree = jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)

    def localise(x):
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, here, parts)

    return jax.tree.map(localise, tree)


def end(status: int, *, together: bool) -> None:
    """Parts from the other processes.

    Args:
        status: to exit with.
        together: all processes come here, having come to the same end. Otherwise this process ends
            at once, and the others lose it.
    """
    if not several():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if together:
        multihost.sync_global_processes("end", timeout=300)
    _ending.set()
    if _bystander is not None:
        _bystander.communicate(b"done")
    if together:
        if is_first() and _watcher is not None:
            _watcher.join(HEARTBEAT_SECONDS)  # until all others have parted: this one leads them
        jax.distributed.shutdown()
    # Not sys.exit: JAX would wait minutes for others that wait for this one; and threads that are
    # inside its runtime abort the process when the interpreter ends under them.
    os._exit(status)


def end_after_failure() -> None:
    """Ends this process after an exception which may come from the loss of another one.

    What a broken connection raises does not say whose it was; the watch knows within
    `HEARTBEAT_SECONDS`, and then ends this process. After that the fault was its own.
    """
    time.sleep(HEARTBEAT_SECONDS + 10)
    end(1, together=False)


def lost_message(process: int, hosts: list[str]) -> str:
    """Returns the line that says which process was lost, and what to do."""
    return (
        f"error: process {process} of {len(hosts)} (on {hosts[process]}) is lost: it was killed, "
        "crashed, or cannot be reached; its own output tells more. This process ends too. Start "
        "all of them again to continue from the last checkpoint"
    )


def _check(coordinator, processes, process):
    names = ("--coordinator", "--processes", "--process")
    missing = [
        name
        for name, value in zip(names, (coordinator, processes, process), strict=True)
        if value is None
    ]
    if missing:
        raise InputError(f"{' and '.join(missing)} is missing: pass all of {', '.join(names)}")
    if processes < 1 or not 0 <= process < processes:
        raise InputError(f"--process is {process}; with --processes={processes} use 0 to N-1")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator is {coordinator!r}; use HOST:PORT of process 0")


def _watch(hosts: list[str]) -> None:
    """Starts what tells of lost processes."""
    global _watcher, _bystander
    devices, everyone = jax.devices(), set(range(len(hosts)))

    def watch():
        while True:
            try:
                # Waits for all others to come here too, but for those whose heartbeats stopped.
                with multihost_utils.live_devices(devices) as live:
                    lost = everyone - {device.process_index for device in live}
            except multihost_utils.ProcessFailureError as error:
                lost = {device.process_index for device in error.failed_devices}
            except RuntimeError:
                lost = {0}  # it leads the others, and does not answer
            if _ending.is_set():
                if not is_first() or len(lost) == len(hosts) - 1:
                    return
            elif lost:
                print(lost_message(min(lost), hosts), file=sys.stderr, flush=True)
                if _bystander is not None:
                    _bystander.communicate(b"done")
                os._exit(LOST_STATUS)
            _ending.wait(2) and time.sleep(0.1)

    _watcher = threading.Thread(target=watch, daemon=True)
    _watcher.start()
    if is_first():
        return
    # Without process 0 JAX ends this one before any of its threads can say why.
    from jax._src import distributed  # nothing public has the address that a cluster gave

    command = [sys.executable, "-I", str(pathlib.Path(bystander.__file__))]
    command += [distributed.global_state.coordinator_address, lost_message(0, hosts)]
    _bystander = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
