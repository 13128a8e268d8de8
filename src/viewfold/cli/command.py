"""Read the arguments, run the verb, and turn every foreseen failure into one message and an exit code.

Exit codes: 0 done; 2 to 6 as drawn in `viewfold.errors`; 130 stopped with Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import tyro

from viewfold.cli.assets import Assets
from viewfold.cli.doctor import Doctor
from viewfold.cli.evaluate import Evaluate
from viewfold.cli.generate import Generate
from viewfold.cli.lift import Lift
from viewfold.cli.origin import Provenance
from viewfold.cli.pack import Pack
from viewfold.cli.personalize import Personalize
from viewfold.cli.render import Render
from viewfold.cli.serve import Serve
from viewfold.cli.start import resting_collector
from viewfold.cli.training import Train
from viewfold.cli.weights import Weights
from viewfold.errors import OutputError, Stopped, ViewfoldError, is_out_of_memory

Verb = Generate | Lift | Assets | Render | Pack | Train | Personalize | Evaluate | Serve | Weights | Provenance | Doctor

VERBS = Annotated[
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Lift, tyro.conf.subcommand("lift")]
    | Annotated[Assets, tyro.conf.subcommand("assets")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Pack, tyro.conf.subcommand("pack")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Personalize, tyro.conf.subcommand("personalize")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Provenance, tyro.conf.subcommand("provenance")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")],
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.OmitArgPrefixes,
    tyro.conf.FlagCreatePairsOff,
]

FLAGS = {
    "n_views": "--views",
    "cameras": "--views",
    "elevation_deg": "--elevation",
    "azimuth_deg": "--azimuth",
    "fov_deg": "--fov",
    "seeds": "--seed",
    "name": "--model",
    "path": "--model",
    "folder": "--model",
    "texture_size": "--texture",
    "prompt": "PROMPT",
    "rgb": "--from",
    "source": "--from",
    "timeout_s": "--timeout",
    "memory_gib": "--memory",
    "class_name": "--class",
}
"""Names of arguments in the library that have another name on the command line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `viewfold` with these arguments (default: the process's) and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files, and prompts, may be no text
    verb = tyro.cli(VERBS, prog="viewfold", args=arguments, description="Text to consistent views to 3D.")
    try:
        _quieten_libraries()
        with _stopping(), resting_collector(process_ends=arguments is None):
            verb.run()
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        code = stop.exit_code if isinstance(stop, Stopped) else 130
        return _fail("stopped; what was not finished has been removed.", code)
    except ViewfoldError as error:
        return _fail(name_flags(str(error), verb), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from viewfold.store import CANNOT_WRITE

        where = f"`{error.filename}` " if error.filename else ""
        code = OutputError.exit_code if error.errno in CANNOT_WRITE else 1
        return _fail(f"{where}could not be used: {(error.strerror or str(error)).lower()}.", code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        less = "a smaller --batch" if isinstance(verb, Train) else "fewer --views or a smaller --size"
        return _fail(f"not enough memory. Ask for {less}, or use another --device.", 1)
    return 0


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a verb as Ctrl-C does, so that nothing is left half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    before = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}  # not under nohup
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def name_flags(message: str, verb: object) -> str:
    """Replace the arguments' names in a message of the library by the flags of the verb: `n_views` -> `--views`."""
    types = dict(_options(verb))
    positional = {name for name, kind in types.items() if "Positional" in kind}
    fields = set(types) | ({"from"} if "source" in types else set())
    flags = FLAGS | ({"views": "--from"} if getattr(verb, "source", None) is not None else {})

    def flag(match: re.Match[str]) -> str:
        name = {"path": next(iter({"file", "files"} & positional), "path")}.get(match[1], match[1])
        if name in positional:
            return f"`{name.upper()}`"
        option = flags.get(name, f"--{name.replace('_', '-')}")
        known = not option.startswith("--") or option[2:].replace("-", "_") in fields
        return f"`{option}`" if known else match[0]

    return re.sub(r"`([a-z]\w*)`", flag, message)


def _options(verb: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the type of each option, those of its groups included."""
    for field in dataclasses.fields(verb):
        value = getattr(verb, field.name)
        yield from _options(value) if dataclasses.is_dataclass(value) else [(field.name, str(field.type))]


def _fail(message: str, code: int) -> int:
    print(f"viewfold: {message}", file=sys.stderr)
    return code


def _quieten_libraries() -> None:
    """Show our own warnings as one line each and none of the libraries'."""
    import logging
    import warnings

    def show(message: Warning | str, category: type[Warning], filename: str, *_: object) -> None:
        if issubclass(category, UserWarning) and f"{os.sep}viewfold{os.sep}" in filename:
            print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    for library in ("diffusers", "transformers", "trimesh"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
