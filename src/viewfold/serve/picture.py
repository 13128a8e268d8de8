"""Pictures that people send: read through the same door as files, and kept as plain pixels, for a day."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from viewfold.errors import AssetError, InputError
from viewfold.serve.folder import picture_path
from viewfold.serve.job import is_id, new_id
from viewfold.store import atomic_write

PICTURE_BYTES = 16 * 2**20
"""Of a file: a phone's photograph has 3 to 12 MB."""

KEPT_PX = 1024
"""Of the longer edge: four times what the released models see."""

KEPT_EACH = 256
"""Pictures of one owner that lie here at a time."""


class Pictures:
    """The pictures of a data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._one = threading.Lock()  # decoded one after another: each may take 256 MiB

    def take(self, files: Sequence[tuple[str, IO[bytes]]], *, owner: str) -> dict[str, Any]:
        """Keep what can be read, and say of the rest why not.

        Raises:
            InputError: the owner has too many here.
        """
        if len(list(self.path("x", owner).parent.glob("*.png"))) + len(files) > KEPT_EACH:
            raise InputError(f"`files` must not bring yours above {KEPT_EACH}; they are removed after a day.")
        kept, refused = [], []
        for name, content in files:
            name = "".join(c for c in name if c.isprintable())[:80]
            try:
                kept.append({"name": name, **self._keep(content, owner)})
            except AssetError as error:
                refused.append({"name": name, "message": str(error)})
        return {"pictures": kept, "refused": refused}

    def path(self, picture: str, owner: str) -> Path:
        """Return where a picture lies."""
        return picture_path(self.data, picture, owner)

    def is_there(self, picture: str, owner: str) -> bool:
        """Return whether an owner sent a picture of that name."""
        return is_id(picture) and self.path(picture, owner).is_file()

    def _keep(self, content: IO[bytes], owner: str) -> dict[str, Any]:
        from viewfold.picture import read_image, to_pil  # torch, when the first picture comes

        raw = content.read(PICTURE_BYTES + 1)
        if len(raw) > PICTURE_BYTES:
            raise AssetError(f"it must have at most {PICTURE_BYTES // 2**20} MiB. Make it smaller.")
        with self._one:
            picture = to_pil(read_image(io.BytesIO(raw), at_least=KEPT_PX))
            picture.thumbnail((KEPT_PX, KEPT_PX))
            name = new_id()
            with atomic_write(self.path(name, owner)) as temporary:
                picture.save(temporary, format="PNG")
        return {"id": name, "width": picture.width, "height": picture.height, "url": f"/v1/pictures/{name}"}
