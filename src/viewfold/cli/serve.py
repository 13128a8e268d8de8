"""`viewfold serve`: the page, the API and the workers, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from viewfold.cli.model import Device
from viewfold.cli.option import unset
from viewfold.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Open a page on this machine: type a prompt, see views and an asset take shape, turn it, download it."""

    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own asks everybody for a token (--add-user)."""
    port: int = 8420
    """Port to listen at; 0 takes a free one."""
    data: Path = Path("out/serve")
    """Folder of the queue and of everything that is made."""
    models: Annotated[tuple[str, ...], UseAppendAction, arg(name="model", metavar="NAME", help_behavior_hint="")] = ()
    """A model that may be asked for, by default toybox; several may be given, the first is loaded at the start."""
    workers: int = 1
    """Processes that work, each with a model of its own; on GPUs one for each."""
    device: Device = "auto"
    """Where to compute."""
    cluster: Annotated[str | None, unset("auto|ADDRESS")] = None
    """Ray cluster that does the jobs, and sees the data folder: the one that this machine belongs to, or HOST:PORT."""
    allowed_host: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME", help_behavior_hint="")] = ()
    """A further name by which this machine is called in a browser."""
    queued: int = 20
    """Jobs that one user may have waiting."""
    job_minutes: float = 240.0
    """A job that runs longer is ended."""
    add_user: Annotated[str | None, unset("NAME")] = None
    """Let somebody in: prints their token, once, and ends."""
    remove_user: Annotated[str | None, unset("NAME")] = None
    """Let somebody in no more, and end."""

    def run(self) -> None:
        """Serve until a signal comes."""
        from viewfold.serve.tokens import Tokens

        tokens = Tokens(self.data)
        if self.add_user is not None:
            print(tokens.add(self.add_user))
            return
        if self.remove_user is not None:
            tokens.remove(self.remove_user)
            print(f"{self.remove_user} is let in no more.", file=sys.stderr)
            return
        self._check()
        away = self.host not in LOOPBACK
        if away and not tokens.all():
            raise InputError(
                f"`host` must be this machine's own (127.0.0.1) as long as nobody has a token; got {self.host}. "
                "Make one: viewfold serve --add-user NAME."
            )
        from viewfold.serve.server import ServerSettings, serve

        settings = ServerSettings(
            host=self.host,
            port=self.port,
            data=self.data,
            models=self.models or ("toybox",),
            workers=self.workers,
            device=self.device,
            cluster=self.cluster,
            hosts=self.allowed_host,
            queued=self.queued,
            job_minutes=self.job_minutes,
        )
        serve(settings, tokens if away or tokens.all() else None)

    def _check(self) -> None:
        if not 0 <= self.port < 2**16:
            raise InputError(f"`port` must lie between 0 and 65535; got {self.port}.")
        if not 1 <= self.workers <= 64:
            raise InputError(f"`workers` must lie between 1 and 64; got {self.workers}.")
        if self.cluster is not None and self.workers != 1:
            raise InputError(f"`workers` must be left out with `cluster`, which has its own; got {self.workers}.")
        if not 0 < self.job_minutes < 1e6:
            raise InputError(f"`job_minutes` must be above 0; got {self.job_minutes:g}.")
        if self.queued < 1:
            raise InputError(f"`queued` must be 1 or more; got {self.queued}.")
