"""The log: a JSON object a line on standard error, of what happened and to which job; no prompts, no secrets."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def log(event: str, **fields: Any) -> None:
    """Say that something happened."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    print(json.dumps({"time": f"{moment}Z", "event": event, **fields}), file=sys.stderr, flush=True)
