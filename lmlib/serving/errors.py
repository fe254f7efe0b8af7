"""Errors in the form of OpenAI's API."""

import json
from typing import Any

from fastapi import HTTPException
from starlette.responses import Response


class ApiError(HTTPException):
    """An error that the client reads as `{"error": {message, type, param, code}}`.

    message:  one sentence that says what to do
    param:    the field of the request that it is about
    code:     a word for programs
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message)
        self.error = {
            "message": message,
            "type": "invalid_request_error" if status < 500 and status != 429 else "server_error",
            "param": param,
            "code": code,
        }


class ApiErrorResponse(Response):
    """An `ApiError` as a response."""

    media_type = "application/json"

    def __init__(self, error: ApiError) -> None:
        headers = {"Retry-After": "1"} if error.status_code in (429, 503) else None
        super().__init__(as_json({"error": error.error}), error.status_code, headers)


def as_json(content: Any) -> str:
    """Return JSON in ASCII: a message may quote a lone surrogate, which UTF-8 cannot encode."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
