"""Items of a packing, read in the order in which it takes them: when it asks, or ahead, by a pool of workers.

Reading decodes every picture, which is nearly all of the work; what is taken is the same whoever read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, Future

from viewfold.data.item import Content, Item, describe
from viewfold.data.manifest import Entry
from viewfold.data.pool import Pool, WorkerDied
from viewfold.errors import AssetError

Read = tuple[Entry, Content]


class ReadAhead:
    """What items say and show."""

    def __init__(self, pool: Pool | None, coming: Iterable[Item]) -> None:
        """Begin to read.

        Args:
            pool: workers that see the same files under the same names; None reads each item when it is taken.
            coming: items in about the order in which they will be taken.
        """
        self._pool, self._coming = pool, iter(coming)
        self._begun: dict[str, Future[Read]] = {}
        self._fill()

    def take(self, item: Item) -> Read:
        """Return entry and content of an item.

        Raises:
            AssetError or OSError: it cannot be had, or the worker that read it died.
        """
        future = self._begun.pop(item.uid, None)
        if future is None:
            return read_item(item)
        self._fill()
        try:
            return future.result()
        except BrokenExecutor:  # a process was killed, and the others of this machine with it: on without them
            self._pool = None
            return read_item(item)
        except WorkerDied as error:
            raise AssetError(f"`{item.uid}` cannot be read: {error}.") from error

    def drop(self, item: Item) -> None:
        """Note that an item is not taken after all."""
        if self._begun.pop(item.uid, None) is not None:
            self._fill()

    def _fill(self) -> None:
        if self._pool is not None:
            for item in itertools.islice(self._coming, max(0, self._pool.at_once - len(self._begun))):
                try:
                    self._begun[item.uid] = self._pool.submit(read_item, item)
                except (BrokenExecutor, OSError):
                    self._pool = None
                    return


def read_item(item: Item) -> Read:
    """Return entry and content of an item, with the stamp that its files had before they were read."""
    stamp = item.stamp()
    content = item.read()
    return describe(item, content, stamp), content
