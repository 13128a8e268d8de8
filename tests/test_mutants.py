"""The mistakes that `scripts/mutate` makes: of every kind, and in nothing but behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import Mutant, mutants
from mutate import ROOT, answering, choose

SOURCE = '''"""A module of at most 3."""
LIMIT = 3


def shrink(first: float, second: float = 1.5, *, clip: bool = True) -> list[int | None]:
    """Return at least 1."""
    if first < LIMIT and not clip:
        raise ValueError(f"{first + 1} < {LIMIT - 1}")
    first = max(first, second)
    total = blend(first - second, weight=2, dim=-1).clamp(0, 1)
    total[0] += first
    return total if clip else -total
'''


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Mutant]:
    package = tmp_path_factory.mktemp("package")
    (package / "blend.py").write_text("def blend(x, *, weight, dim=0): ...\n")
    return mutants(SOURCE, package)


@pytest.mark.parametrize(
    "line",
    [
        "LIMIT = 4",
        "if first <= LIMIT and not clip:",
        "if first > LIMIT and not clip:",
        "if first < LIMIT or not clip:",
        "if first < LIMIT and clip:",
        "if first < LIMIT and True:",
        "if False:",
        "if second < LIMIT and not clip:",
        "first = min(first, second)",
        "first = max(second, first)",
        "pass",
        "total = blend(first + second, weight=2, dim=-1).clamp(0, 1)",
        "total = blend(first - second, weight=2, dim=1).clamp(0, 1)",
        "total = blend(first - second, weight=2, dim=-0).clamp(0, 1)",
        "total = blend(first - second, weight=2).clamp(0, 1)",
        "total = blend(first - second, weight=3, dim=-1).clamp(0, 1)",
        "total = blend(first - second, weight=2, dim=-1)",
        "total = blend(first - second, weight=2, dim=-1).clamp(1, 0)",
        "total[1] += first",
        "return total",
        "return -total",
        "return total if clip else total",
    ],
)
def test_a_plausible_mistake_is_made(found: list[Mutant], line: str) -> None:
    assert line in {mutant.after for mutant in found}


def test_what_is_not_behaviour_is_left_alone_and_each_mutant_changes_one_line(found: list[Mutant]) -> None:
    original = SOURCE.splitlines()
    for mutant in found:
        changed = [i for i, (a, b) in enumerate(zip(original, mutant.source.splitlines(), strict=True), 1) if a != b]
        assert changed == [mutant.line] and mutant.before == " ".join(original[mutant.line - 1].split())
        assert mutant.line not in (1, 6, 8), "docstrings and messages"
        assert "-> list[int | None]:" in mutant.source and "first: float" in mutant.source
        assert "blend(first - second, dim=-1)" not in mutant.after, "an argument that must be there"
    assert len({mutant.source for mutant in found}) == len(found)


def test_a_sample_is_of_as_many_lines_as_there_are_and_the_same_for_a_seed(found: list[Mutant]) -> None:
    lines = {mutant.line for mutant in found}
    some = choose(found, len(lines), 0)
    assert {mutant.line for mutant in some} == lines and some == choose(found, len(lines), 0)
    assert some != choose(found, len(lines), 1) and choose(found, None, 0) == found
    assert len(choose(found, 10**6, 0)) == len(found)


@pytest.mark.slow
def test_a_module_answers_to_the_tests_of_its_name_or_to_those_that_import_it() -> None:
    assert answering("scene.mesh")[0] == "tests/test_mesh.py"
    assert "tests/test_steps.py" in answering("diffusion.sampler")
    assert answering("lifting.foreground"), "has no file of its own"
    for path in (ROOT / "src" / "viewfold").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "src" / "viewfold").with_suffix("").parts)
        assert all((ROOT / test).is_file() for test in answering(module))
    assert isinstance(ROOT, Path)
