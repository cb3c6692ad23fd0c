"""A request to the API server and its reply, and what each status means (Kubernetes API conventions)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from rds_csi.errors import DriverError
from rds_csi.kubernetes.errors import ApiAway, Conflict, Expired, Forbidden, Invalid, NoSuchObject, Unauthorized
from rds_csi.kubernetes.values import Json, Object, text
from rds_csi.logging import single_line

# Characters of the server's own words that go into a message.
_WORDS = 500

_ERRORS: dict[int, type[DriverError]] = {
    HTTPStatus.BAD_REQUEST: Invalid,
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NoSuchObject,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.GONE: Expired,
    HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
}


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` with its query. ``content`` is of ``content_type``, b"" for none."""

    method: str
    path: str
    content: bytes = b""
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered. ``retry_after`` in seconds, 0 when it does not say."""

    status: int
    body: bytes
    retry_after: float = 0.0


def value_of(request: Request, reply: Reply, label: str) -> Object:
    """The object in a reply that says yes; every other one raises an error of ``kubernetes.errors``."""
    value = _parse(reply.body)
    asked = f"{request.method} {request.path.partition('?')[0]}"
    if 200 <= reply.status < 300:
        if not isinstance(value, Mapping):
            raise ApiAway(f"the API server at {label} answers {asked} with something that is no object")
        return value
    words = single_line(text(value, "message")[:_WORDS]) or f"status {reply.status}"
    told = f"the API server at {label} answers {asked}: {words}"
    error = _ERRORS.get(reply.status)
    # Everything else is a server, or a proxy before it, that cannot do its work now.
    raise error(told) if error is not None else ApiAway(told, retry_after=reply.retry_after)


def _parse(body: bytes) -> Json:
    try:
        value: Json = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value
