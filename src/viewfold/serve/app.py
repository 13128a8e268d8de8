"""The API: what is asked is checked and put into the queue; what came of it is looked up and sent.

The page uses nothing else.  Knows no model and no torch: workers do (`work`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException

from viewfold import __version__
from viewfold.errors import InputError, OutputError, ViewfoldError
from viewfold.serve import page
from viewfold.serve.board import Board, describe
from viewfold.serve.door import COOKIE, Door
from viewfold.serve.folder import bundle_of, files_of, jobs_folder
from viewfold.serve.job import STATES, Job, State
from viewfold.serve.knowledge import read_knowledge
from viewfold.serve.metric import Metrics
from viewfold.serve.picture import PICTURE_BYTES, Pictures
from viewfold.serve.queue import Queue, QueueFull
from viewfold.serve.request import (
    MAX_PICTURES,
    MAX_TRIES,
    MAX_VIEWS,
    PROMPT_CHARACTERS,
    QUALITIES,
    Check,
    Make,
    Token,
)
from viewfold.serve.request import Request as Asked
from viewfold.serve.tokens import Patience, Tokens

STREAMS = 1_000
"""That are open at the same time: each keeps a connection."""

Id = Annotated[str, InPath(pattern="^[0-9a-z]{26}$", description="A name that the server gave.")]


_FILES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What a server offers, and to whom."""

    models: tuple[str, ...] = ("toybox",)
    """That requests may name."""
    hosts: tuple[str, ...] = ()
    """Names of this machine besides the loopback's."""
    tokens: Tokens | None = None
    """None lets everybody in who can reach the address."""
    workers: Callable[[], int] = field(default=lambda: 0)
    """Says how many workers live."""


def create_app(data: Path, queue: Queue, settings: ServeSettings | None = None) -> FastAPI:
    """Return the application over a data folder."""
    settings = settings or ServeSettings()
    board, metrics, pictures, patience = (
        Board(queue, data),
        Metrics(queue, settings.workers),
        Pictures(data),
        Patience(),
    )
    app = FastAPI(
        title="viewfold", version=__version__, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
        description="Text to consistent views to 3D.", lifespan=lambda app: _living(board),
    )  # fmt: skip
    app.state.board, app.state.draining = board, False
    sizes = {"/v1/pictures": MAX_PICTURES * PICTURE_BYTES}
    app.add_middleware(Door, tokens=settings.tokens, hosts=settings.hosts, sizes=sizes)  # pyright: ignore[reportArgumentType]
    app.add_middleware(metrics.middleware)
    _say_errors(app)

    def mine(request: Request, job: str) -> Job:
        found = queue.get(job, owner=request.state.owner)
        if found is None:
            raise HTTPException(404, "`job` must be one of yours that is still there.")
        return found

    @app.get("/v1/about", tags=["server"])
    def about(request: Request) -> dict[str, Any]:
        """Say what this server offers."""
        counts = queue.counts()
        return {
            "version": __version__,
            "user": request.state.owner,
            "login": request.state.owner is None,
            "models": [read_knowledge(data, name).public() for name in settings.models],
            "qualities": [{"name": name, "says": says} for name, says in QUALITIES.items()],
            "formats": page.formats(),
            "limits": {
                "prompt_characters": PROMPT_CHARACTERS,
                "views": MAX_VIEWS,
                "tries": MAX_TRIES,
                "pictures": MAX_PICTURES,
                "picture_bytes": PICTURE_BYTES,
                "queued": queue.limits.queued_each,
            },
            "queue": {"queued": counts["queued"], "running": counts["running"], "workers": settings.workers()},
        }

    @app.post("/v1/session", status_code=204, tags=["server"], responses=_told(401, 429))
    def log_in(body: Token, response: Response) -> None:
        """Keep a token in a cookie that no script can read."""
        if patience.is_over():
            raise HTTPException(429, "too many wrong tokens of late. Wait a minute.", {"retry-after": "60"})
        if settings.tokens is not None and settings.tokens.owner(body.token) is None:
            patience.count()
            raise HTTPException(401, "`token` must be one that the server knows.")
        response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", max_age=30 * 24 * 3600)

    @app.delete("/v1/session", status_code=204, tags=["server"])
    def log_out(response: Response) -> None:
        """Forget the token."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    @app.post("/v1/check", tags=["jobs"], responses=_told(422))
    def check(body: Check, request: Request) -> dict[str, Any]:
        """Say what there is to know about a prompt before it is drawn."""
        _offered(settings, body.model)
        learned = tuple(job.title for job in queue.learned(request.state.owner))
        notes, outside = read_knowledge(data, body.model).notes(body.prompt, subjects=learned)
        return {"notes": notes, "outside": outside}

    @app.post("/v1/jobs", status_code=202, tags=["jobs"], responses=_told(409, 422, 429, 503))
    def submit(
        body: Annotated[Asked, ...],
        request: Request,
        response: Response,
        idempotency_key: Annotated[str | None, Header(pattern="^[A-Za-z0-9_-]{8,64}$")] = None,
    ) -> dict[str, Any]:
        """Ask for something; with the same `Idempotency-Key` once more, it is one job."""
        if app.state.draining:
            raise HTTPException(503, "the server is about to end. Ask again when it is back.", {"retry-after": "30"})
        _offered(settings, body.model)
        owner = request.state.owner
        if isinstance(body, Make):
            for subject in body.subjects:
                learned = queue.get(subject, owner=owner)
                if learned is None or learned.kind != "personalize" or learned.state != "done":
                    raise InputError(
                        f"`subjects` must be finished jobs of yours that learned something; got {subject}."
                    )
                if learned.request["model"] != body.model:
                    raise InputError(
                        f"`subjects` must have been learned by {body.model}; got {learned.request['model']}."
                    )
        else:
            gone = next((picture for picture in body.pictures if not pictures.is_there(picture, owner)), None)
            if gone is not None:
                raise InputError(f"`pictures` must be pictures that you sent; got {gone}. Send it again.")
        told = body.model_dump(by_alias=True, mode="json")
        job = queue.submit(owner, body.kind, body.title, told, key=idempotency_key)
        response.headers["location"] = f"/v1/jobs/{job.id}"
        return describe(queue, data, job)

    @app.get("/v1/jobs", tags=["jobs"], responses=_told(422))
    def jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        state: Annotated[str, Query(max_length=64)] = "",
        q: Annotated[str, Query(max_length=200)] = "",
    ) -> dict[str, Any]:
        """List your jobs, the newest first; `state` is a list with commas, `q` words of the title."""
        states: list[State] = [name for name in STATES if name in state.split(",")]
        if state and len(states) != len(set(state.split(","))):
            raise InputError(f"`state` must be of {', '.join(STATES)}; got {state!r}.")
        found = queue.list(request.state.owner, limit=limit + 1, before=before, states=states, words=q)
        more = found[limit - 1].number if len(found) > limit else None
        shown = [describe(queue, data, job, short=True) for job in found[:limit]]
        return {"jobs": shown, "next": more, "total": queue.count(request.state.owner)}

    @app.get("/v1/jobs/{job}", tags=["jobs"], responses=_told(404))
    def job(job: Id, request: Request) -> dict[str, Any]:
        """Show a job."""
        return describe(queue, data, mine(request, job))

    def watched(job: Id, request: Request) -> Job:
        if board.watchers >= STREAMS:
            raise HTTPException(503, "too many watch at once. Ask again later.", {"retry-after": "10"})
        return mine(request, job)

    @app.get("/v1/jobs/{job}/events", tags=["jobs"], response_class=EventSourceResponse, responses=_told(404, 503))
    async def events(found: Job = Depends(watched)) -> AsyncIterator[ServerSentEvent]:  # noqa: B008
        """Tell of a job as it changes, until it is over (server-sent events)."""
        number = 0
        async with contextlib.aclosing(board.watch(found)) as said_of_it:  # who goes away is not watched for
            async for said in said_of_it:
                number += 1
                alive = ServerSentEvent(comment="alive")
                yield alive if said is None else ServerSentEvent(event="job", raw_data=said, id=str(number))

    @app.post("/v1/jobs/{job}/cancel", status_code=202, tags=["jobs"], responses=_told(404))
    def cancel(job: Id, request: Request) -> dict[str, Any]:
        """End a job that waits or runs."""
        queue.cancel(mine(request, job).id, request.state.owner)
        return describe(queue, data, mine(request, job))

    @app.delete("/v1/jobs/{job}", status_code=204, tags=["jobs"], responses=_told(404))
    def delete(job: Id, request: Request) -> None:
        """End a job, and remove it and its files."""
        queue.hide(mine(request, job).id, request.state.owner)

    @app.get("/v1/jobs/{job}/files/{name}", tags=["files"], responses=_told(404, 416), response_class=FileResponse)
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

    @app.get("/v1/jobs/{job}/views.zip", tags=["files"], responses=_told(404), response_class=StreamingResponse)
    def views_zip(job: Id, request: Request) -> StreamingResponse:
        """Send the views, their cameras and the record in one file."""
        return archive(request, job, "views.zip")

    @app.get("/v1/jobs/{job}/asset-obj.zip", tags=["files"], responses=_told(404), response_class=StreamingResponse)
    def obj_zip(job: Id, request: Request) -> StreamingResponse:
        """Send the OBJ with its material and texture in one file."""
        return archive(request, job, "asset-obj.zip")

    @app.post("/v1/pictures", status_code=201, tags=["pictures"], responses=_told(413, 422), openapi_extra=_FILES)
    async def send_pictures(request: Request) -> dict[str, Any]:
        """Send pictures of one thing, to be learned; each is read and kept as plain pixels."""
        async with request.form(max_files=MAX_PICTURES, max_fields=8) as form:
            files = [(part.filename or "", part.file) for part in form.getlist("files") if isinstance(part, UploadFile)]
            if not files:
                raise InputError("`files` must be pictures; got none.")
            return await asyncio.to_thread(pictures.take, files, owner=request.state.owner)

    @app.get("/v1/pictures/{picture}", tags=["pictures"], responses=_told(404), response_class=FileResponse)
    def picture(picture: Id, request: Request) -> FileResponse:
        """Show a picture that was sent."""
        if not pictures.is_there(picture, request.state.owner):
            raise HTTPException(404, "`picture` must be one that you sent.")
        return FileResponse(pictures.path(picture, request.state.owner), media_type="image/png")

    @app.get("/healthz", include_in_schema=False)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    def ready() -> JSONResponse:
        counts = queue.counts()
        able = settings.workers() > 0 and not app.state.draining
        return JSONResponse({"ready": able, "workers": settings.workers(), **counts}, 200 if able else 503)

    @app.get("/metrics", include_in_schema=False)
    def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    page.add_routes(app)
    return app


@contextlib.asynccontextmanager
async def _living(board: Board) -> AsyncIterator[None]:
    task = asyncio.create_task(board.run())
    try:
        yield
    finally:
        board.close()
        await task


def _offered(settings: ServeSettings, model: str) -> None:
    if model not in settings.models:
        raise InputError(f"`model` must be one that is served, {', '.join(settings.models)}; got {model[:64]!r}.")


def _told(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for the OpenAPI document."""
    message = {"type": "object", "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}
    schema = {"type": "object", "properties": {"error": message}, "required": ["error"]}
    return {
        code: {"description": "an error in words", "content": {"application/json": {"schema": schema}}}
        for code in (400, 401, 403, 421, *codes)
    }


def _zipped(parts: list[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield an archive: made in a file that is nowhere, for archives of many large pictures do not fit into memory."""
    with tempfile.SpooledTemporaryFile(max_size=16 * 2**20) as kept:
        with zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as archive:
            for name, path in parts:
                archive.write(path, name)
        kept.seek(0)
        while piece := kept.read(io.DEFAULT_BUFFER_SIZE * 8):
            yield piece


def _say_errors(app: FastAPI) -> None:
    """Say every error in the same form."""

    def said(status: int, code: str, message: str, field: str | None = None, **headers: str) -> JSONResponse:
        words = {"error": {"code": code, "message": message, "field": field}}
        return JSONResponse(words, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [
            str(part) for part in first["loc"] if part not in ("body", "query", "header", "path", "make", "personalize")
        ]
        if first["type"] == "json_invalid":  # its place is a letter's number
            place = []
        what = f"`{'.'.join(place)}` " if place else "`kind` " if "tag" in first["type"] else "`body` "
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason if reason.startswith(("must", "`")) else f"must be another one: {reason}"
        return said(
            422, "invalid", f"{'' if reason.startswith('`') else what}{reason}."[:500], place[0] if place else None
        )

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        code = {
            404: "not_found",
            413: "too_large",
            401: "no_token",
            429: "too_many",
            503: "unavailable",
            405: "not_allowed",
        }
        words, headers = str(error.detail), dict(error.headers or {})
        if words == "There was an error parsing the body":  # FastAPI's, of JSON nested too deeply, say
            words = "`body` must be JSON of a reasonable depth; it cannot be read."
        return said(error.status_code, code.get(error.status_code, "refused"), words, **headers)

    @app.exception_handler(ViewfoldError)
    async def foreseen(request: Request, error: ViewfoldError) -> JSONResponse:
        text = str(error)
        field = text.split("`")[1] if text.startswith("`") and text.count("`") > 1 else None
        if isinstance(error, QueueFull):
            return said(429, "queue_full", text, **{"retry-after": "30"})
        if isinstance(error, OutputError):
            return said(507, "cannot_write", text)
        if field == "Idempotency-Key":
            return said(409, "key_used", text, field)
        return said(422, "invalid", text, field)
