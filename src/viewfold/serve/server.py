"""Starts everything that `viewfold serve` is, and ends it in order."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from viewfold.errors import InputError
from viewfold.serve.app import ServeSettings, create_app
from viewfold.serve.folder import LOCK, QUEUE
from viewfold.serve.log import log
from viewfold.serve.queue import Queue, QueueLimits
from viewfold.serve.supervisor import Slot, Supervisor
from viewfold.serve.tokens import Tokens
from viewfold.store import check_output, lock

MOST_THREADS = 4
"""Of a worker on processors; small models are slower on more, and on two cores twice as slow on both as on one.  A core
is left for the server.  OMP_NUM_THREADS says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens and keeps its things, and what it offers."""

    host: str = "127.0.0.1"
    port: int = 8420
    """0 takes a free one."""
    data: Path
    models: tuple[str, ...] = ("toybox",)
    """That may be asked for; the first is loaded at the start."""
    workers: int = 1
    device: str = "auto"
    cluster: str | None = None
    """A Ray cluster that does the jobs, in place of workers here."""
    hosts: tuple[str, ...] = ()
    """Further names by which this machine is called."""
    queued: int = 20
    """Jobs that one user may have waiting."""
    job_minutes: float = 240.0


def serve(options: ServerSettings, tokens: Tokens | None) -> None:
    """Serve until SIGTERM or Ctrl-C: what runs then goes back to the queue, and on when the server is started again.

    Raises:
        OutputError: another server has the data folder, or it cannot be written, or its queue is damaged.
        InputError: the address cannot be listened at.
    """
    data = options.data.absolute()
    check_output(data / QUEUE)
    with lock(data / LOCK, f"`data` must be served once at a time; another server is at work in {data}."):
        queue = Queue(data / QUEUE, limits=QueueLimits(queued_each=options.queued))
        queue.file.back_up()  # sound, as it was opened: what there is if the file is damaged the next time
        listener = _listen(options.host, options.port)
        port = listener.getsockname()[1]
        with Supervisor(data, queue, _slots(options), job_minutes=options.job_minutes) as workers:
            hosts = (options.host, *options.hosts)
            settings = ServeSettings(models=options.models, hosts=hosts, tokens=tokens, workers=lambda: workers.alive)
            app = create_app(data, queue, settings)
            config = uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=20,
                timeout_graceful_shutdown=5, limit_concurrency=2_000, h11_max_incomplete_event_size=64 * 2**10,
            )  # fmt: skip
            shown = f"[{options.host}]" if ":" in options.host else options.host
            print(f"http://{shown}:{port}/  (data in {options.data}; Ctrl-C ends it)", flush=True)
            log("serving", port=port, workers=options.workers)
            _Server(config).run(sockets=[listener])
            log("draining")
        queue.close()
    log("ended")


class _Server(uvicorn.Server):
    """Tells the application that it is about to end, so that streams end and nothing new is taken."""

    def handle_exit(self, sig: int, frame: object) -> None:
        state = self.config.app.state  # pyright: ignore[reportAttributeAccessIssue,reportFunctionMemberAccess]
        state.draining = True
        asyncio.get_running_loop().call_soon_threadsafe(state.board.close)
        super().handle_exit(sig, frame)  # pyright: ignore[reportArgumentType]
        self._captured_signals.clear()  # or uvicorn raises it again when all has ended


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket, so that an address in use is said before workers start."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # By its protocol asyncio knows that it may send small answers at once (TCP_NODELAY): else each takes 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        raise InputError(
            f"`host` and `port` must be an address to listen at; {host}:{port}: {error.strerror or error}. "
            "Another server may have it: name another --port."
        ) from error
    return listener


def _slots(options: ServerSettings) -> list[Slot]:
    """Return a worker for each GPU, or as many as are asked for, which share the processors."""
    threads = max(1, min(MOST_THREADS, ((os.cpu_count() or 1) - 1) // options.workers))
    slots = []
    device = [] if options.device == "auto" else ["--device", options.device]
    if options.cluster is not None:
        arguments = ["--warm", options.models[0], "--cluster", options.cluster, *device]
        return [Slot(name="cluster", arguments=arguments, several=True)]
    for number in range(options.workers):
        arguments, environment = ["--warm", options.models[0], *device], {}
        if options.device in ("auto", "cuda") and options.workers > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(number)
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(threads)
        slots.append(Slot(name=f"worker-{number}", arguments=arguments, environment=environment))
    return slots
