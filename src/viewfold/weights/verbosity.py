"""Silence the progress bars and load reports of diffusers and transformers; what matters is raised as an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and load reports off the terminal; they have switches for it, no context."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    with contextlib.ExitStack() as back:
        back.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        for library in (logging, diffusers_logging):
            if library.is_progress_bar_enabled():
                back.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
