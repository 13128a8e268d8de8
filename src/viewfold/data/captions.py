"""What people say about their assets: captions, licences and authors from files beside them and from tables.

Read are JSON, text, CSV (Cap3D's too), Parquet, and Objaverse's and LVIS's own indices.  All of them are strangers'
files: bounded before they are read, and of a table only what is asked for is kept.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import AssetError, InputError, MissingExtraError
from viewfold.store import open_regular

KEYS = ("uid", "id", "key", "file_name", "filename", "file", "path", "object_id", "identifier", "model", "name")
"""Columns that say which asset a row is about, the first one counts."""
CAPTIONS = ("caption", "captions", "text", "prompt", "description", "txt")
ABOUT = {
    "licence": ("licence", "license"),
    "author": ("author", "creator", "artist", "user", "username"),
    "source": ("source", "url", "uri", "link"),
}
OBJAVERSE_LICENCES = {
    "by": "CC-BY-4.0",
    "by-sa": "CC-BY-SA-4.0",
    "by-nd": "CC-BY-ND-4.0",
    "by-nc": "CC-BY-NC-4.0",
    "by-nc-sa": "CC-BY-NC-SA-4.0",
    "by-nc-nd": "CC-BY-NC-ND-4.0",
    "cc0": "CC0-1.0",
}
"""Sketchfab's words in Objaverse's metadata, and SPDX's."""

Record = dict[str, Any]


def clean_captions(value: object, where: str) -> list[str]:
    """Return captions from a text or a list of texts, in one line each, empty ones left out.

    Raises:
        AssetError: they are something else or too long.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise AssetError(f"{where} must give captions as a text or a list of texts; got {type(value).__name__}.")
    cleaned = [" ".join(text.split()) for text in texts]
    if any(len(text) > limits.PROMPT_CHARACTERS for text in cleaned):
        raise AssetError(f"{where} must have captions of at most {limits.PROMPT_CHARACTERS} letters.")
    return list(dict.fromkeys(text for text in cleaned if text))


def caption_from_name(stem: str) -> str | None:
    """Return what a file's name says (`Red_Mug-03` -> "red mug"); None if it says nothing."""
    if re.fullmatch(r"[0-9a-fA-F-]{16,}", stem):  # a hash or a UUID
        return None
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    words = re.sub(r"[^\w']+|_", " ", words)
    kept = [word for word in words.lower().split() if re.search(r"[^\W\d]", word) and not re.fullmatch(r"v\d+", word)]
    return " ".join(kept) or None


def read_sidecar(asset: Path) -> Record:
    """Return what the .json and the .txt beside an asset say; nothing where there are none.

    The JSON may be an object with "captions" or "caption", a text, or a list of texts; a .txt has one caption a line.

    Raises:
        AssetError: one of them is damaged or too large.
    """
    record: Record = {}
    about, lines = asset.with_suffix(".json"), asset.with_suffix(".txt")
    if about.exists():
        record = record_of(_read(about, limits.JSON_BYTES), "json", str(about))
    if not record.get("captions") and lines.exists():
        record |= record_of(_read(lines, limits.JSON_BYTES), "txt", str(lines))
    return record


def record_of(content: bytes, kind: str, where: str) -> Record:
    """Return what the bytes of a sidecar say: of JSON, or of a text with a caption a line.

    Raises:
        AssetError: they are damaged.
    """
    path = Path(where)
    if kind != "json":
        return {"captions": clean_captions(_text(content, path).splitlines(), f"`{where}`")}
    document = _parse(content, path)
    record = dict(document) if isinstance(document, dict) else {"captions": document}
    given = record.pop("caption", None)
    if (captions := record.get("captions", given)) is not None:
        record["captions"] = clean_captions(captions, f"`{where}`")
    for name, columns in ABOUT.items():
        value = next((record[c] for c in columns if isinstance(record.get(c), str) and record[c]), None)
        if value is not None:
            record[name] = value
    return record


def read_table(path: str | Path, *, wanted: set[str]) -> dict[str, Record]:
    """Return the records of the wanted keys: captions, licence, author, source as far as they are given.

    Args:
        path: .csv (with a header, or Cap3D's two columns without one), .parquet, .json or .jsonl, each plain or .gz;
            Objaverse's metadata and LVIS's index among the JSON; or a folder of such files.

    Raises:
        InputError: no such file, or of a kind that is not read.
        AssetError: it is damaged or larger than the limits allow.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(path)
    if path.is_dir():
        tables = sorted(p for p in path.rglob("*") if _kind(p) is not None)
        if not tables:
            raise InputError(f"`captions` must hold .csv, .parquet, .json or .jsonl tables; `{path}` holds none.")
    elif not path.is_file():
        raise InputError(f"`captions` must be a table or a folder of tables; `{path}` is none.")
    else:
        tables = [path]
    found: dict[str, Record] = {}
    for table in tables:
        for key, record in _records(table, wanted):
            if key in wanted:
                _merge(found.setdefault(key, {}), record)
    return found


def _kind(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in ("csv", "parquet", "jsonl", "json") if name.endswith(f".{kind}")), None)


def _records(path: Path, wanted: set[str]) -> Iterator[tuple[str, Record]]:
    kind = _kind(path)
    if kind == "csv":
        yield from _csv_records(path)
    elif kind == "parquet":
        yield from _parquet_records(path)
    elif kind == "jsonl":
        lines = (_parse(line, path) for line in _lines(path) if line.strip())
        yield from (row for line in lines if (row := _row_record(line, path)) is not None)
    elif kind == "json":
        yield from _json_records(_parse(_read(path, limits.INDEX_BYTES), path), path, wanted)
    else:
        raise InputError(f"`captions` must end in .csv, .parquet, .json or .jsonl (or .gz); got '{path.name}'.")


def _csv_records(path: Path) -> Iterator[tuple[str, Record]]:
    lines = (_text(line, path).removeprefix("\ufeff") for line in _lines(path))
    try:
        rows = csv.reader(lines)
        first = next(rows, None)
        if first is None:
            return
        header = [name.strip().lower() for name in first]
        if any(name in KEYS for name in header) and any(name in CAPTIONS for name in header):
            for row in rows:
                if (record := _row_record(dict(zip(header, row, strict=False)), path)) is not None:
                    yield record
        elif len(first) == 2:
            for key, caption in ((row[0], row[1]) for row in (first, *rows) if len(row) == 2):
                yield key.strip(), {"captions": clean_captions(caption, f"`{path}`")}
        else:
            raise AssetError(
                f"`{path}` must have a header with one of {', '.join(KEYS[:6])} and one of "
                f"{', '.join(CAPTIONS[:4])}, or two columns without one; got {', '.join(header)[:200]}."
            )
    except csv.Error as error:
        raise AssetError(f"`{path}` cannot be read as CSV: {error}.") from error


def _parquet_records(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "a table in Parquet needs pyarrow: pip install 'viewfold[parquet]', or convert it to CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as table:
            known = {*KEYS, *CAPTIONS, *(name for names in ABOUT.values() for name in names)}
            columns = [name for name in table.schema_arrow.names if name.lower() in known]
            for batch in table.iter_batches(batch_size=4096, columns=columns):
                for row in batch.to_pylist():
                    record = _row_record({name.lower(): value for name, value in row.items()}, path)
                    if record is not None:
                        yield record
    except (pyarrow.ArrowException, OSError) as error:
        raise AssetError(f"`{path}` cannot be read as Parquet: {str(error)[:200]}.") from error


def _json_records(document: Any, path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, Record]]:
    wanted = set(wanted)
    if isinstance(document, list):
        yield from (row for each in document if (row := _row_record(each, path)) is not None)
        return
    if not isinstance(document, dict):
        raise AssetError(f"`{path}` must hold a JSON object or a list; got {type(document).__name__}.")
    keyed = any(key in wanted for key in document)
    for key, value in document.items():
        if isinstance(value, dict):
            if key in wanted:
                yield (
                    key,
                    _objaverse_record(value, path)
                    if "viewerUrl" in value or "user" in value
                    else (_about(value, path)),
                )
        elif isinstance(value, list) and not keyed:  # LVIS: category -> uids
            caption = lvis_caption(key)
            yield from ((uid, {"captions": [caption]}) for uid in value if isinstance(uid, str) and caption)
        elif isinstance(value, str | list) and key in wanted:
            yield key, {"captions": clean_captions(value, f"`{path}`")}


def lvis_caption(category: str) -> str:
    """Return a category of LVIS in words: `bow_(decorative_ribbons)` -> "bow"."""
    return " ".join(re.sub(r"\(.*?\)", "", category.replace("_", " ")).lower().split())


def _objaverse_record(about: dict[str, Any], path: Path) -> Record:
    """Return what Objaverse's metadata says: the name, else the tags, as a caption; licence, author and page."""
    name = about.get("name")
    tags = [
        tag["name"] for tag in about.get("tags") or () if isinstance(tag, dict) and isinstance(tag.get("name"), str)
    ]
    caption = (caption_from_name(name) if isinstance(name, str) else None) or ", ".join(tags[:8])
    user = about.get("user")
    if isinstance(user, dict):
        user = user.get("displayName") or user.get("username")
    licence = about.get("license")
    if isinstance(licence, dict):
        licence = licence.get("slug") or licence.get("label")
    record: Record = {"captions": clean_captions(caption, f"`{path}`")}
    if isinstance(licence, str) and licence:
        record["licence"] = OBJAVERSE_LICENCES.get(licence, licence)
    if isinstance(user, str) and user:
        record["author"] = user
    if isinstance(page := about.get("viewerUrl") or about.get("uri"), str):
        record["source"] = page
    return record


def _row_record(row: Any, path: Path) -> tuple[str, Record] | None:
    if not isinstance(row, dict):
        raise AssetError(f"`{path}` must have rows with names; got {type(row).__name__}.")
    key = next((row[name] for name in KEYS if isinstance(row.get(name), str) and row[name]), None)
    return None if key is None else (key, _about(row, path))


def _about(row: dict[str, Any], path: Path) -> Record:
    record: Record = {}
    given = next((row[name] for name in CAPTIONS if row.get(name) is not None), None)
    if given is not None:
        record["captions"] = clean_captions(given, f"`{path}`")
    for name, columns in ABOUT.items():
        value = next((row[column] for column in columns if isinstance(row.get(column), str) and row[column]), None)
        if value is not None:
            record[name] = " ".join(value.split())[: limits.SETTING_CHARACTERS]
    return record


def _merge(record: Record, more: Record) -> None:
    """Add captions; of the rest the first that is said stays."""
    captions = list(dict.fromkeys([*record.get("captions", ()), *more.get("captions", ())]))
    record |= {**more, **record} | ({"captions": captions} if captions else {})


def _read(path: Path, limit: int) -> bytes:
    """Return a regular file's bytes, decompressed if its name ends in .gz."""
    try:
        with open_regular(path) as file:
            stream = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise AssetError(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(content) > limit:
        raise AssetError(f"`{path}` must have at most {limit} bytes, decompressed; it has more. Split it.")
    return content


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a regular file, of bounded length and number of bytes, decompressed if it ends in .gz."""
    left = limits.TABLE_BYTES
    try:
        with open_regular(path) as file:
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
            while line := stream.readline(limits.JSON_BYTES):
                left -= len(line)
                if left < 0 or len(line) == limits.JSON_BYTES:
                    raise AssetError(f"`{path}` must have at most {limits.TABLE_BYTES} bytes, decompressed. Split it.")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise AssetError(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AssetError(f"`{path}` must be UTF-8 text; it is not.") from error


def _parse(content: bytes, path: Path) -> Any:
    try:
        return json.loads(_text(content, path).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise AssetError(f"`{path}` cannot be read as JSON: {str(error)[:160]}.") from error
