"""Who may come in from another address: names, and digests of their tokens."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from pathlib import Path

from viewfold.errors import AssetError, InputError
from viewfold.serve.folder import TOKENS
from viewfold.store import atomic_write, read_json, write_json

LOCAL = "local"
"""The one user where no token is asked for."""


class Tokens:
    """Who may come in: names and the SHA-256 of their tokens, which have 256 random bits, so that no salt is needed."""

    def __init__(self, data: Path) -> None:
        self.path = data / TOKENS
        self._read: tuple[tuple[int, int], dict[str, str]] | None = None

    def add(self, name: str) -> str:
        """Let somebody in; return their token, which is nowhere else.

        Raises:
            InputError: the name is no word of letters, digits, dots and dashes, or is taken.
        """
        if not name or not all(c.isascii() and (c.isalnum() or c in ".-_") for c in name) or len(name) > 64:
            raise InputError(f"`add_user` must be a word of letters, digits, dots and dashes; got {name!r}.")
        found = self.all()
        if name in found or name == LOCAL:
            raise InputError(f"`add_user` must be a new name; {name!r} is taken. Use --remove-user first.")
        token = secrets.token_urlsafe(32)
        self._write(found | {name: _digest(token)})
        return token

    def remove(self, name: str) -> None:
        """Let somebody in no more.

        Raises:
            InputError: nobody has that name.
        """
        found = self.all()
        if name not in found:
            raise InputError(f"`remove_user` must be one of {', '.join(found) or 'nobody'}; got {name!r}.")
        self._write({other: digest for other, digest in found.items() if other != name})

    def owner(self, token: str | None) -> str | None:
        """Return whose token it is; every one is compared, in a time that does not depend on it."""
        if token is None:
            return None
        digest, owner = _digest(token), None
        for name, known in self.all().items():
            if hmac.compare_digest(digest, known):
                owner = name
        return owner

    def all(self) -> dict[str, str]:
        """Return the digests by name; read again when the file has changed."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        mark = (stat.st_mtime_ns, stat.st_ino)
        if self._read is None or self._read[0] != mark:
            found = read_json(self.path)
            if not all(isinstance(digest, str) and len(digest) == 64 for digest in found.values()):
                raise AssetError(f"`{self.path}` must hold a digest for each name; it is damaged.")
            self._read = mark, found
        return self._read[1]

    def _write(self, digests: dict[str, str]) -> None:
        with atomic_write(self.path) as temporary:
            write_json(temporary, digests)
            temporary.chmod(0o600)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Patience:
    """Slows down who guesses tokens: so many wrong ones a minute, of all together."""

    def __init__(self, wrong: int = 20) -> None:
        self.wrong, self._times = wrong, []

    def is_over(self) -> bool:
        """Return whether too many were wrong of late."""
        self._times = [moment for moment in self._times if time.monotonic() - moment < 60]
        return len(self._times) >= self.wrong

    def count(self) -> None:
        """Note a wrong one."""
        self._times.append(time.monotonic())
