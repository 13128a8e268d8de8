"""The page's files, and names for what it downloads."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from importlib.resources import files
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import Response

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".LICENSE": "text/plain; charset=utf-8",
}  # fmt: skip

HOUR_S = 3600


def formats() -> list[str]:
    """Return what assets can be downloaded as."""
    return ["glb", "obj", "ply", "stl"] + (["usdz"] if importlib.util.find_spec("pxr") is not None else [])


def download_name(title: str, name: str) -> str:
    """Return a name for a file on somebody's disk: the prompt's letters and the file's own name, nothing else."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:48].strip("-") or "viewfold"
    stem, _, suffix = name.rpartition(".")
    return f"{words}.{suffix}" if stem == "asset" else f"{words}-{stem}.{suffix}"


def static() -> dict[str, tuple[bytes, str, bool]]:
    """Return the page's files by name: content, media type, whether it is compressed."""
    found = {}
    for entry in (files("viewfold.serve") / "web").iterdir():
        name = entry.name.removesuffix(".gz")
        kind = TYPES.get(name[name.rfind(".") :])
        if entry.is_file() and kind is not None:
            found[name] = entry.read_bytes(), kind, entry.name.endswith(".gz")
    return found


def add_routes(app: FastAPI) -> None:
    """Serve the page from memory: no path of a request reaches the disk."""
    kept = static()

    def answer(name: str, request: Request) -> Response:
        if name not in kept:
            raise HTTPException(404, "the page has no such part.")
        content, kind, is_compressed = kept[name]
        mark = hashlib.sha256(content).hexdigest()[:16]
        headers = {
            "cache-control": f"public, max-age={HOUR_S if is_compressed else 0}, must-revalidate",
            "etag": f'"{mark}"',
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        if is_compressed:
            headers["content-encoding"] = "gzip"
        return Response(content, media_type=kind, headers=headers)

    @app.get("/", include_in_schema=False)
    def index(request: Request) -> Response:
        return answer("index.html", request)

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon(request: Request) -> Response:
        return answer("favicon.svg", request)

    @app.get("/static/{name}", include_in_schema=False)
    def part(name: Annotated[str, InPath(max_length=64)], request: Request) -> Response:
        return answer(name, request)
