"""Errors as the API says them: one form for all, in words that say what to do."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from viewfold.errors import MissingExtraError, OutputError, ViewfoldError
from viewfold.serve.queue import QueueFull


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for the OpenAPI document."""
    message = {"type": "object", "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}
    schema = {"type": "object", "properties": {"error": message}, "required": ["error"]}
    return {
        code: {"description": "an error in words", "content": {"application/json": {"schema": schema}}}
        for code in (400, 401, 403, 421, *codes)
    }


def say_errors(app: FastAPI) -> None:
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
        if isinstance(error, MissingExtraError):
            return said(501, "missing_extra", text, field)
        if isinstance(error, OutputError):
            return said(507, "cannot_write", text)
        if field == "Idempotency-Key":
            return said(409, "key_used", text, field)
        return said(422, "invalid", text, field)
