"""Who made what a folder of shards holds, and under which licence: a text file beside the shards and every model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from viewfold import limits
from viewfold.data.manifest import Entry
from viewfold.data.storage import storage_of
from viewfold.errors import ViewfoldError
from viewfold.store import atomic_write

NAME = "ATTRIBUTION.md"
UNKNOWN = "unknown"


def write_attribution(folder: Path, entries: Iterable[Entry]) -> None:
    """Write `ATTRIBUTION.md`: under each licence a line per author and origin, with how many samples it stands for."""
    found: dict[str, Counter[tuple[str, str]]] = {}
    for entry in entries:
        people = found.setdefault(_line(entry.licence) or UNKNOWN, Counter())
        people[_line(entry.author) or UNKNOWN, _line(entry.origin)] += 1
    lines = ["# Attribution", ""]
    for licence in sorted(found):
        lines += [f"## {licence}", ""]
        for (author, origin), count in sorted(found[licence].items()):
            lines.append(
                f"- {author}{f', {origin}' if origin else ''}: {count} {'sample' if count == 1 else 'samples'}"
            )
        lines.append("")
    text = "\n".join(lines)
    path = folder / NAME
    if path.is_file() and path.read_bytes() == text.encode("utf-8", "replace"):
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def copy_attribution(folders: Iterable[str | Path], model: Path) -> None:
    """Write into a model's folder what the folders of shards it was trained on say of their makers; none, no file."""
    texts = []
    for folder in folders:
        name = str(folder).rstrip("/").rpartition("/")[2]
        try:
            with storage_of(folder).open(f"{folder}/{NAME}") as file:
                body = file.read(limits.TABLE_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            continue
        except (ViewfoldError, OSError) as error:  # a finished model is not lost for it
            body = f"# Attribution\n\nIt could not be read: {error}\n"
        texts.append(body.replace("# Attribution", f"# Attribution: {name}", 1).rstrip() + "\n")
    if texts:
        (model / NAME).write_text("\n".join(texts), encoding="utf-8")


def _line(text: str | None) -> str:
    """Return a text as one line: names are strangers' words."""
    return " ".join((text or "").split())[:1000]
