"""The exception tree: drawn as it is, told apart by exit codes, caught as what a caller would expect."""

import pytest

from viewfold import errors

CLASSES = sorted(
    (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_drawing_at_the_top_names_every_class(kind: type[errors.ViewfoldError]) -> None:
    assert issubclass(kind, errors.ViewfoldError)
    assert errors.__doc__ is not None and kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_the_drawing_gives_the_exit_codes(kind: type[errors.ViewfoldError]) -> None:
    assert errors.__doc__ is not None
    line = next(line for line in errors.__doc__.splitlines() if kind.__name__ in line)
    if "exit" in line:
        assert line.endswith(f"exit {kind.exit_code}")


def test_branches_are_told_apart_by_exit_code_and_leaves_keep_theirs() -> None:
    branches = errors.ViewfoldError.__subclasses__()
    codes = [branch.exit_code for branch in branches]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 130} & set(codes)
    for branch in branches:
        assert all(leaf.exit_code == branch.exit_code for leaf in branch.__subclasses__())


def test_a_wrong_argument_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="empty"):
        raise errors.PromptError("`prompt` must not be empty.")
