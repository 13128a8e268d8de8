"""What the API's own document allows, and what it does not, sent by schemathesis: no answer is a 500."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serve_fakes import Served, serving

from viewfold.serve.queue import QueueLimits
from viewfold.serve.tokens import Tokens

pytestmark = pytest.mark.heavy

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


def sent(served: Served, *options: str) -> subprocess.CompletedProcess[str]:
    """Let schemathesis ask a server for whatever it likes."""
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("the API is tried with pip install schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.address}/v1/openapi.json", "--no-color"]
    command += ["--checks", CHECKS, "--seed", "1", "--max-examples", "15", *options]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_nothing_that_schemathesis_sends_is_a_500(tmp_path: Path):
    with serving(tmp_path, limits=QueueLimits(queued_each=100_000, queued=100_000)) as served:
        served.make(served.put()["id"])
        ended = sent(served)
        assert ended.returncode == 0, ended.stdout[-6000:]
        assert re.search(r"\d+ generated", ended.stdout), ended.stdout[-2000:]
        assert served.queue.counts()["queued"] > 0  # some of what it sent was let in


def test_nor_is_what_it_sends_with_a_token(tmp_path: Path):
    tokens = Tokens(tmp_path)
    limits = QueueLimits(queued_each=5)  # and a queue that is full
    with serving(tmp_path, tokens=tokens, limits=limits) as served:
        token = tokens.add("ann")
        ended = sent(served, "-H", f"Authorization: Bearer {token}")
        assert ended.returncode == 0, ended.stdout[-6000:]
