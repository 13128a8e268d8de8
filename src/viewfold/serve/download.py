"""What came of a job, to be had: its files one by one, or together."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse

from viewfold.serve import page
from viewfold.serve.answer import refusals
from viewfold.serve.folder import bundle_of, files_of, jobs_folder
from viewfold.serve.job import Job

Id = Annotated[str, InPath(pattern="^[0-9a-z]{26}$", description="A name that the server gave.")]


def add_downloads(app: FastAPI, data: Path, mine: Callable[[Request, str], Job]) -> None:
    """Add the routes; `mine` returns a job of who asks, or says that there is none."""

    @app.get("/v1/jobs/{job}/files/{name}", tags=["files"], responses=refusals(404, 416), response_class=FileResponse)
    def file(
        job: Id, name: Annotated[str, InPath(max_length=64)], request: Request, download: bool = False
    ) -> FileResponse:
        """Send a file of a job, or the bytes of it that are asked for."""
        found = mine(request, job)
        there = files_of(jobs_folder(data) / found.id).get(name)
        if there is None:
            raise HTTPException(404, "`name` must be one of the job's files.")
        kept = "private, max-age=31536000, immutable" if found.state == "done" else "no-cache"
        title = page.download_name(found.title, name) if download else None
        return FileResponse(there.path, media_type=there.type, filename=title, headers={"cache-control": kept})

    def archive(request: Request, job: str, name: Literal["views.zip", "asset-obj.zip"]) -> StreamingResponse:
        found = mine(request, job)
        parts = bundle_of(jobs_folder(data) / found.id, name)
        if not parts:
            raise HTTPException(404, "the job has none, or not yet.")
        quoted = page.download_name(found.title, name)
        headers = {"content-disposition": f'attachment; filename="{quoted}"', "cache-control": "no-cache"}
        return StreamingResponse(_zipped(parts), media_type="application/zip", headers=headers)

    @app.get("/v1/jobs/{job}/views.zip", tags=["files"], responses=refusals(404), response_class=StreamingResponse)
    def views_zip(job: Id, request: Request) -> StreamingResponse:
        """Send the views, their cameras and the record in one file."""
        return archive(request, job, "views.zip")

    @app.get("/v1/jobs/{job}/asset-obj.zip", tags=["files"], responses=refusals(404), response_class=StreamingResponse)
    def obj_zip(job: Id, request: Request) -> StreamingResponse:
        """Send the OBJ with its material and texture in one file."""
        return archive(request, job, "asset-obj.zip")


def _zipped(parts: list[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield an archive: made in a file that is nowhere, for archives of many large pictures do not fit into memory."""
    with tempfile.SpooledTemporaryFile(max_size=16 * 2**20) as kept:
        with zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as archive:
            for name, path in parts:
                archive.write(path, name)
        kept.seek(0)
        while piece := kept.read(io.DEFAULT_BUFFER_SIZE * 8):
            yield piece
