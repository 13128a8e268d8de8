"""What every test shares: one thread, no network, and shapes that are checked.

The shape checks come from `--jaxtyping-packages` in pyproject.toml; `test_layout.py` holds the canary that proves they
are on.
"""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of numbers that the original MVDream code produced."""
    return ROOT / "tests" / "parity"


@pytest.fixture
def generator() -> torch.Generator:
    """Randomness that is the same in every run."""
    return torch.Generator().manual_seed(0)
