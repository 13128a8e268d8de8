"""What every test shares: one thread, no network, and shapes that are checked.

The shape checks come from `--jaxtyping-packages` in pyproject.toml; `test_layout.py` holds the canary that proves they
are on.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_the_compiled_files_of_other_packages() -> None:
    """Let jaxtyping's hook name its own compiled files only for the modules that it rewrites.

    It does so for as long as such a module runs, and so for all that the module imports: without this, torch, diffusers
    and transformers are compiled again from source, half a minute.
    """
    from functools import partial
    from importlib.machinery import SourceFileLoader
    from unittest.mock import patch

    from jaxtyping import _import_hook as hook

    def get_code(self: hook._JaxtypingLoader, fullname: str) -> object:
        name = partial(hook._optimized_cache_from_source, self._typechecker.get_hash())
        with patch("importlib._bootstrap_external.cache_from_source", name):
            return SourceFileLoader.get_code(self, fullname)

    hook._JaxtypingLoader.get_code = get_code  # type: ignore[method-assign]
    hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module  # type: ignore[method-assign]


_keep_the_compiled_files_of_other_packages()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `--heavy` run what is marked so."""
    parser.addoption("--heavy", action="store_true", help="run the tests marked heavy as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave heavy tests out unless they are asked for."""
    if config.getoption("--heavy"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of numbers that the original MVDream code produced."""
    return ROOT / "tests" / "parity"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tables of shards away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    """Randomness that is the same in every run."""
    return torch.Generator().manual_seed(0)
