"""Errors that clients of our own server get, in OpenAI's shape. Not `tuneyard.errors`, which end a command.

Raised where a request is checked, rendered or generated; `app` sends them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

_MODEL_PARAM = "model"


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's shape."""

    type: str
    message: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every response that is an error."""

    error: ErrorDetail


class RequestError(Exception):
    """Raised where a request can't be answered.

    Args:
        message: Why.
        status: The HTTP status.
        param: The field of the request at fault; None where no single one is.
        code: OpenAI's code of the error; None where it has none.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    @property
    def response(self) -> ErrorResponse:
        """The body to send."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return ErrorResponse(error=ErrorDetail(type=kind, message=self.message, param=self.param, code=self.code))


class ModelNotFoundError(RequestError, LookupError):
    """Raised where no model has the requested name.

    Args:
        name: The name.
        names: The names that are served.
    """

    def __init__(self, name: str, names: Sequence[str]) -> None:
        message = f"The server has no model {name!r}; it serves {', '.join(names)}."
        super().__init__(message, status=404, param=_MODEL_PARAM, code="model_not_found")


class TemplateError(RequestError):
    """Raised where a chat template can't render a request, or leaves a part of it out.

    Args:
        message: Why.
        param: The field of the request.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param=param)


class GenerationError(RequestError):
    """Raised where an answer could not be generated to its end.

    Args:
        message: Why.
        status: The HTTP status of a response that is not a stream.
    """

    def __init__(self, message: str, *, status: int = 500) -> None:
        super().__init__(message, status=status)
