"""How a job ends: done, failed in words, cancelled, or to be given back."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.errors import ViewfoldError, is_out_of_memory
from viewfold.serve.job import State
from viewfold.serve.log import log


class Cancelled(KeyboardInterrupt):
    """Whoever asked for a job wants it no more."""


@dataclass(frozen=True)
class End:
    """What is said of a job that is over."""

    state: State
    error: dict[str, str] | None = None
    figures: dict[str, Any] | None = None


def attempt(job: str, do: Callable[[], dict[str, Any]]) -> End | None:
    """Return how a job ended, or None if it was told to stop and is to be given back."""
    try:
        return End("done", figures=do())
    except Cancelled:
        return End("cancelled")
    except KeyboardInterrupt:  # `Stopped` too
        return None
    except ViewfoldError as error:
        return End("failed", {"code": _code(error), "message": str(error)})
    except Exception as error:
        if is_out_of_memory(error):
            message = "`memory` must be enough for the job; the machine ran out of it. Ask for fewer views or less."
            return End("failed", {"code": "out_of_memory", "message": message})
        log("job_broke", job=job, error=type(error).__name__, where=_where(error))
        message = f"something went wrong that nobody foresaw ({type(error).__name__}); the server's log says where."
        return End("failed", {"code": "internal", "message": message})


def _code(error: ViewfoldError) -> str:
    """Return an error's kind as the API says it: PromptError -> prompt_error."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in type(error).__name__).lstrip("_")


def _where(error: Exception) -> list[str]:
    """Return the places of an error in our code: no words of a request are in them."""
    return [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)][-6:]
