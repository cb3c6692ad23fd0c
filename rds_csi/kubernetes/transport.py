"""One request to the API server over TLS, in time. The only module that imports httpx: it takes 0.2 s and some MB."""

import asyncio
import logging
import ssl

import httpx

from rds_csi.deadline import within
from rds_csi.errors import ConfigurationError
from rds_csi.kubernetes.access import Access
from rds_csi.kubernetes.errors import ApiAway
from rds_csi.kubernetes.exchange import Reply, Request

# Seconds to connect, TLS included, and for a request in all.
_CONNECT_SECONDS = 3.0
_REQUEST_SECONDS = 10.0
# A connection that was idle for longer is not used again: load balancers forget them in silence.
_KEEP_SECONDS = 30.0
# The sweep, the events and the taint are all that there is.
_CONNECTIONS = 3
# A page of 500 objects of some KB each.
_MOST_BYTES = 32 << 20
_WORDS = 200


class Transport:
    """Connections to one API server that is known by one CA bundle."""

    def __init__(self, access: Access, ca: str, user_agent: str) -> None:
        """ConfigurationError when the bundle holds no certificate. Blocking."""
        # Their lines on lower levels hold headers.
        for library in ("httpx", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)
        self._label = access.label
        self._client = httpx.AsyncClient(
            base_url=f"https://{access.label}",
            verify=_trust(ca, access),
            trust_env=False,
            follow_redirects=False,
            headers={"Accept": "application/json", "User-Agent": user_agent},
            limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEEP_SECONDS),
            timeout=httpx.Timeout(_REQUEST_SECONDS, connect=_CONNECT_SECONDS),
        )

    async def send(self, request: Request, token: str) -> Reply:
        """The reply, whatever its status. ApiAway when there is none in time; what was asked may be done then."""
        headers = {"Authorization": f"Bearer {token}"}
        if request.content:
            headers["Content-Type"] = request.content_type
        seconds = within(_REQUEST_SECONDS)
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(
                    request.method, request.path, content=request.content or None, headers=headers
                ) as response,
            ):
                body = await self._body(response)
        except (TimeoutError, httpx.TimeoutException):
            raise ApiAway(f"the API server at {self._label} did not answer within {seconds:.3g} s") from None
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
            words = str(error)[:_WORDS] or type(error).__name__
            raise ApiAway(f"the API server at {self._label} cannot be asked: {words}") from None
        return Reply(response.status_code, body, _seconds(response.headers.get("Retry-After", "")))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.aiter_bytes():
            size += len(piece)
            if size > _MOST_BYTES:
                raise ApiAway(f"the API server at {self._label} answers with more than {_MOST_BYTES} bytes")
            pieces.append(piece)
        return b"".join(pieces)


def _trust(ca: str, access: Access) -> ssl.SSLContext:
    # Not create_default_context: no system CAs, and from Python 3.13 on it refuses clusters' CAs as too plain.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(f"ca.crt in {access.directory} holds no certificate in PEM form") from None
    return context


def _seconds(text: str) -> float:
    """Retry-After in seconds; 0 for a date (RFC 9110, section 10.2.3), which the API server does not send."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0.0
