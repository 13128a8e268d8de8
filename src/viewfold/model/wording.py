"""The words for a subject that a model is taught: a word of its own before those of its class.  Needs no torch."""

from __future__ import annotations

from viewfold.errors import InputError

ARTICLES = frozenset({"a", "an", "the"})

MADE_UP = ("zorb", "quib", "vask", "plim", "snurf", "tweg", "drox", "floon")
"""Words that nobody uses, to be taken for names."""


def own_words(subject: str, class_name: str) -> list[str]:
    """Return the words of a subject that are its own: "zorb" of "a zorb mug", whose class is "mug".

    Raises:
        InputError: the subject is not its class with a word of its own before it.
    """
    words, own = subject.lower().split(), class_name.lower().split()
    if not own or words[-len(own) :] != own:
        raise InputError(
            f"`subject` must end with its class, '{class_name}'; got '{subject}'. Say 'a zorb {class_name}'."
        )
    names = [word for word in words[: -len(own)] if word not in ARTICLES]
    if not names:
        other = next(word for word in MADE_UP if word not in words)
        raise InputError(
            f"`subject` must have a word of its own before its class; got '{subject}'. Say 'a {other} {class_name}'."
        )
    return names
