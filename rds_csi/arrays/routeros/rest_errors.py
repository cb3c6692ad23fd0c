"""REST replies and failures of httpx in the words of ``errors`` (facts on RouterOS, 4.1: the table of statuses)."""

import json
import ssl
from dataclasses import dataclass
from typing import TypeAlias

import httpx

from rds_csi.arrays.routeros.errors import BadCredentials, GarbageReply, LostReply, NotPermitted, Refused, Unsent
from rds_csi.arrays.routeros.rest_tls import tls_error
from rds_csi.errors import DriverError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_UNAUTHORIZED = 401
_FORBIDDEN = 403
# Characters of a reply's own words that go into a message.
_WORDS = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of RouterOS's own. ``json`` is None for an empty body; ``refusal`` is its reason for not doing it."""

    status: int
    json: Json = None
    refusal: str = ""


def exchange_error(error: Exception, *, sent: bool, label: str) -> DriverError:
    """What a request that brought no reply means; ``sent``: its first bytes were handed to the connection."""
    if not sent:
        # In a handshake that came to no end, the last thing that TLS said is that it wants to read on.
        reason = None if _is_timeout(error) else _tls_failure(error)
        if reason is not None:
            return tls_error(reason, label)
        return Unsent(f"no connection to {label}: {_words(error)}")
    if _is_timeout(error):
        return LostReply(f"{label} did not answer the request in time")
    return LostReply(f"the reply of {label} was lost: {_words(error)}")


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError | httpx.TimeoutException)


def _words(error: Exception) -> str:
    if _is_timeout(error):
        return "it did not answer in time"
    return str(error)[:_WORDS] or type(error).__name__


def _tls_failure(error: BaseException) -> ssl.SSLError | None:
    """The TLS error that httpx has wrapped, if it is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    return seen


def read_reply(status: int, data: bytes, *, label: str, user: str) -> Reply:
    """The reply, when RouterOS itself did or refused what was asked; everything else raises."""
    if status == _UNAUTHORIZED:
        raise BadCredentials(
            f"{label} does not let the user {user} in",
            remedy="Check the password file, that the group has the policy rest-api, and the user's address list.",
        )
    if status == _FORBIDDEN:
        raise Refused(
            f"{label} has REST switched off", remedy="Switch it on in /ip/service/webserver (RouterOS 7.21 and later)."
        )
    value = _parse(data, status, label)
    if 200 <= status < 300:
        return Reply(status, value)
    detail = _detail(value)
    if not detail or status < 400:
        raise GarbageReply(f"{label} answers with status {status}, which is not RouterOS's REST")
    _check_permission(detail, label, user)
    # After the 60 s that RouterOS gives a request, which may go on there.
    if status >= 500 or "session closed" in detail.lower():
        raise LostReply(f"{label} broke the request off: {detail[:_WORDS]}")
    return Reply(status, value, refusal=detail)


def _check_permission(detail: str, label: str, user: str) -> None:
    lowered = detail.lower()
    if "not allowed (9)" in lowered:
        raise NotPermitted(
            f"{label} does not let the user {user} use the API",
            text=detail,
            remedy="Add the policy api to the user's group: REST needs both api and rest-api.",
        )
    if "not enough permissions" in lowered:
        raise NotPermitted(
            f"{label} does not let the user {user} do this: {detail[:_WORDS]}",
            text=detail,
            remedy="The user's group needs the policies read, write, api, rest-api and test; changes take ten minutes.",
        )


def _parse(data: bytes, status: int, label: str) -> Json:
    if not data.strip():
        return None
    try:
        # Other people's comments may hold any byte; ours are ASCII.
        value: Json = json.loads(data.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        raise GarbageReply(f"{label} answers with status {status} and {len(data)} bytes that are no JSON") from None
    return value


def _detail(value: Json) -> str:
    """RouterOS's words: ``{"error": 400, "message": "Bad Request", "detail": "…"}``; "" when it is no such object."""
    if not isinstance(value, dict) or "error" not in value:
        return ""
    detail = value.get("detail") or value.get("message")
    return detail if isinstance(detail, str) else ""
