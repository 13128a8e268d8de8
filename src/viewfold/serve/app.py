"""The API: what is asked is checked and put into the queue; what came of it is looked up and sent.

The page uses nothing else.  Knows no model and no torch: workers do (`work`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.datastructures import UploadFile

from viewfold import __version__
from viewfold.errors import InputError, MissingExtraError
from viewfold.model.wording import own_words
from viewfold.serve import page
from viewfold.serve.answer import refusals, say_errors
from viewfold.serve.board import Board, describe
from viewfold.serve.door import COOKIE, Door
from viewfold.serve.download import Id, add_downloads
from viewfold.serve.job import STATES, Job, Kind, State
from viewfold.serve.knowledge import read_knowledge
from viewfold.serve.metric import Metrics
from viewfold.serve.picture import PICTURE_BYTES, Pictures
from viewfold.serve.queue import Queue
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
    learns: bool = field(default_factory=lambda: importlib.util.find_spec("peft") is not None)
    """Whether what is learned could be used: LoRA files are read with peft."""


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
    say_errors(app)

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
            "learns": settings.learns,
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

    @app.post("/v1/session", status_code=204, tags=["server"], responses=refusals(401, 429))
    def log_in(body: Token, request: Request, response: Response) -> None:
        """Keep a token in a cookie that no script can read."""
        if patience.is_over():
            raise HTTPException(429, "too many wrong tokens of late. Wait a minute.", {"retry-after": "60"})
        if settings.tokens is None:
            return  # nobody asks for one
        if settings.tokens.owner(body.token) is None:
            patience.count()
            raise HTTPException(401, "`token` must be one that the server knows.")
        safe = {"httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}
        response.set_cookie(COOKIE, body.token, max_age=30 * 24 * 3600, **safe)

    @app.delete("/v1/session", status_code=204, tags=["server"])
    def log_out(response: Response) -> None:
        """Forget the token."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    @app.post("/v1/check", tags=["jobs"], responses=refusals(422))
    def check(body: Check, request: Request) -> dict[str, Any]:
        """Say what there is to know about a prompt before it is drawn."""
        _offered(settings, body.model)
        learned = tuple(job.title for job in queue.learned(request.state.owner))
        notes, outside = read_knowledge(data, body.model).notes(body.prompt, subjects=learned)
        return {"notes": notes, "outside": outside}

    @app.post("/v1/jobs", status_code=202, tags=["jobs"], responses=refusals(409, 422, 429, 501, 503))
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
            if not settings.learns:
                raise MissingExtraError(
                    "`kind` personalize needs peft on the server. Run `pip install 'viewfold[lora]'`."
                )
            own_words(body.subject, body.class_)
            gone = next((picture for picture in body.pictures if not pictures.is_there(picture, owner)), None)
            if gone is not None:
                raise InputError(f"`pictures` must be pictures that you sent; got {gone}. Send it again.")
        told = body.model_dump(by_alias=True, mode="json")
        job = queue.submit(owner, body.kind, body.title, told, key=idempotency_key)
        response.headers["location"] = f"/v1/jobs/{job.id}"
        return describe(queue, data, job)

    @app.get("/v1/jobs", tags=["jobs"], responses=refusals(422))
    def jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        state: Annotated[str, Query(max_length=64)] = "",
        kind: Kind | None = None,
        q: Annotated[str, Query(max_length=200)] = "",
    ) -> dict[str, Any]:
        """List your jobs, the newest first; `state` is a list with commas, `q` words of the title."""
        states: list[State] = [name for name in STATES if name in state.split(",")]
        if state and len(states) != len(set(state.split(","))):
            raise InputError(f"`state` must be of {', '.join(STATES)}; got {state!r}.")
        owner = request.state.owner
        found = queue.list(owner, limit=limit + 1, before=before, states=states, kind=kind, words=q)
        more = found[limit - 1].number if len(found) > limit else None
        shown = [describe(queue, data, job, short=True) for job in found[:limit]]
        return {"jobs": shown, "next": more, "total": queue.count(owner, states=states, kind=kind, words=q)}

    @app.get("/v1/jobs/{job}", tags=["jobs"], responses=refusals(404))
    def job(job: Id, request: Request) -> dict[str, Any]:
        """Show a job."""
        return describe(queue, data, mine(request, job))

    def watched(job: Id, request: Request) -> Job:
        if board.watchers >= STREAMS:
            raise HTTPException(503, "too many watch at once. Ask again later.", {"retry-after": "10"})
        return mine(request, job)

    @app.get("/v1/jobs/{job}/events", tags=["jobs"], response_class=EventSourceResponse, responses=refusals(404, 503))
    async def events(found: Job = Depends(watched)) -> AsyncIterator[ServerSentEvent]:  # noqa: B008
        """Tell of a job as it changes, until it is over (server-sent events)."""
        number = 0
        async with contextlib.aclosing(board.watch(found)) as said_of_it:  # who goes away is not watched for
            async for said in said_of_it:
                number += 1
                alive = ServerSentEvent(comment="alive")
                yield alive if said is None else ServerSentEvent(event="job", raw_data=said, id=str(number))

    @app.post("/v1/jobs/{job}/cancel", status_code=202, tags=["jobs"], responses=refusals(404))
    def cancel(job: Id, request: Request) -> dict[str, Any]:
        """End a job that waits or runs."""
        queue.cancel(mine(request, job).id, request.state.owner)
        return describe(queue, data, mine(request, job))

    @app.delete("/v1/jobs/{job}", status_code=204, tags=["jobs"], responses=refusals(404))
    def delete(job: Id, request: Request) -> None:
        """End a job, and remove it and its files."""
        queue.hide(mine(request, job).id, request.state.owner)

    add_downloads(app, data, mine)

    @app.post("/v1/pictures", status_code=201, tags=["pictures"], responses=refusals(413, 422), openapi_extra=_FILES)
    async def send_pictures(request: Request) -> dict[str, Any]:
        """Send pictures of one thing, to be learned; each is read and kept as plain pixels."""
        async with request.form(max_files=MAX_PICTURES, max_fields=8) as form:
            files = [(part.filename or "", part.file) for part in form.getlist("files") if isinstance(part, UploadFile)]
            if not files:
                raise InputError("`files` must be pictures; got none.")
            return await asyncio.to_thread(pictures.take, files, owner=request.state.owner)

    @app.get("/v1/pictures/{picture}", tags=["pictures"], responses=refusals(404), response_class=FileResponse)
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
