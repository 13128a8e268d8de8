"""Many machines: units of work as tasks of Ray, behind the same few calls as the processes of one machine.

A unit is a call that does its work once, writes its result whole or not at all, and skips what is done already; so a
task may run twice, a worker may die, and a run that was killed goes on when it is started again.  Ray is an extra
(`pip install 'viewfold[cluster]'`) that nothing imports before a cluster is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from viewfold.data.pool import WorkerDied
from viewfold.errors import InputError, MissingExtraError, OutputError

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 3
"""Times that a unit is given to another worker when its own dies."""

KNOCK_S = 5.0
"""To wait for somebody at an address."""

_TOKEN = Path("~/.ray/auth_token")
"""Where Ray keeps the word by which the machines of a cluster know each other."""

_NONE_HERE = "Could not find any running Ray instance"
"""What Ray says where this machine belongs to no cluster; whatever else keeps us from one that is there is an error."""

PASSED_ON = ("PYTHONPATH", "HF_HUB_OFFLINE", "VIEWFOLD_BLENDER")
"""Variables of the environment that workers get from us; each has one thread."""


class Cluster:
    """A pool of Ray's workers, used with `with`; leaving it drops what has not begun.

    Satisfies `data.pool.Pool`.
    """

    def __init__(self, address: str = "auto", *, shared: Path | None = None, gpus: int = 0) -> None:
        """Connect, and see that every machine has this version of viewfold and sees the folder that we write to.

        Args:
            address: "auto" joins the cluster that this machine belongs to, or starts one of this machine alone;
                otherwise HOST:PORT of a head, or ray://HOST:PORT.
            shared: a folder that every machine must see, usually the output.
            gpus: that a unit takes; 0 takes a processor alone.

        Raises:
            MissingExtraError: Ray is not installed.
            InputError: no cluster there, one without processors, or another version of viewfold on it.
            OutputError: a machine does not see the folder.
        """
        self._ray = _import_ray()
        self._connect(address)
        self._gpus = gpus
        self.slots = int(self._ray.cluster_resources().get("GPU" if gpus else "CPU", 0)) // max(gpus, 1)
        """Units that run at the same time."""
        if self.slots < 1:
            self.close()
            kind = "graphics cards" if gpus else "processors"
            raise InputError(f"`cluster` must have {kind}; the one at {address} has none. Add a machine.")
        self.at_once = 2 * self.slots
        """Units to have in flight: one that runs in each slot, and one that waits for it."""
        try:
            self._check(shared)
        except BaseException:
            self.close()
            raise

    def submit(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Give a call to a worker; its exception, or `WorkerDied`, comes out of the future."""
        task = self._remote(_named(work))
        answer: Future[R] = Future()
        inner = task.remote(work, *args, **kwargs).future()
        inner.add_done_callback(functools.partial(self._hand_over, answer))
        return answer

    def _hand_over(self, answer: Future[Any], inner: Future[Any]) -> None:
        error: Any = inner.exception()
        if error is None:
            answer.set_result(inner.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            cause = error.cause if isinstance(error.cause, BaseException) else error
            answer.set_exception(cause)
        else:  # the worker or its machine is gone, RETRIES times over
            answer.set_exception(WorkerDied(f"its worker died {RETRIES + 1} times ({type(error).__name__})"))

    def close(self) -> None:
        """Leave the cluster; one that we started ends."""
        self._ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _connect(self, address: str) -> None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"OMP_NUM_THREADS": "1"}
        options: dict[str, Any] = {
            "runtime_env": {"env_vars": environment},
            "log_to_driver": False,
            "logging_level": "ERROR",
            "namespace": "viewfold",
        }
        _knock(address)
        try:
            self._ray.init(address=address, **options)
        except ConnectionError as error:
            if address != "auto" or _NONE_HERE not in str(error):
                raise InputError(
                    f"`cluster` at {address} must let us in; somebody is there, but Ray does not answer. It may be "
                    "another service, another version of Ray, or ask for a token: set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN, or copy its ~/.ray/auth_token here."
                ) from error
            self._ray.init(include_dashboard=False, **options)

    def _remote(self, name: str) -> Any:
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_retries": RETRIES, "retry_exceptions": False}
        return self._ray.remote(**options)(_call).options(name=name)

    def _check(self, shared: Path | None) -> None:
        """Ask every machine for its version, and for a file that we just wrote."""
        from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
            NodeAffinitySchedulingStrategy,
        )

        from viewfold import __version__

        with _token(shared) as token:
            asked = {}
            for node in self._ray.nodes():
                if node["Alive"] and node["Resources"].get("CPU"):
                    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                    task = self._ray.remote(num_cpus=0)(_introduce).options(scheduling_strategy=there)
                    asked[node["NodeManagerHostname"]] = task.remote(None if token is None else str(token))
            for host, answer in asked.items():
                try:
                    version, sees = self._ray.get(answer)
                except self._ray.exceptions.RayError as error:
                    raise InputError(
                        f"`cluster` must have viewfold {__version__} on every machine; {host} could not load it "
                        f"({str(error).splitlines()[-1][:200]}). Install it there."
                    ) from error
                if version != __version__:
                    raise InputError(f"`cluster` must have viewfold {__version__} everywhere; {host} has {version}.")
                if not sees:
                    raise OutputError(
                        f"`{shared}` must be a folder that all machines share; {host} does not see it. Put it there."
                    )


def _knock(address: str) -> None:
    """See that somebody listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _nobody(address) from error


def _nobody(address: str) -> InputError:
    return InputError(
        f"`cluster` must be the address of a running Ray cluster; there is none at {address}. Start it with "
        "`ray start --head`, or use auto for this machine alone."
    )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or _TOKEN.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `ray start` does where there is one; `init` does not
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "`--cluster` needs Ray; it is not installed. Run `pip install 'viewfold[cluster]'`."
        ) from error
    return ray


@contextlib.contextmanager
def _token(folder: Path | None) -> Iterator[Path | None]:
    """Write a file with a name that nobody else has, and take it away afterwards."""
    if folder is None:
        yield None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / f".cluster-{uuid.uuid4().hex}"
        path.touch()
    except OSError as error:
        raise OutputError(f"`{folder}` cannot be written: {error.strerror}. Name another folder.") from error
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _named(work: Callable[..., Any]) -> str:
    return getattr(work, "__name__", type(work).__name__)


def _call(work: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Run a unit on a worker, with one thread."""
    import torch

    torch.set_num_threads(1)
    return work(*args, **kwargs)


def _introduce(token: str | None) -> tuple[str, bool]:
    from viewfold import __version__

    return __version__, token is None or Path(token).is_file()
