"""The methods of the services, with everything about each that is the same for every call of it."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import betterproto
from grpclib.const import Handler, Status

from rds_csi.metrics import Metrics
from rds_csi.model.notices import Announce, announce_nothing
from rds_csi.rpc import decode, encode

# Called every few seconds by probes and sidecars, or told otherwise (registration): in the log only for who asks for
# everything.
_TRIVIAL = frozenset({"Probe", "GetPluginInfo", "GetPluginCapabilities", "GetInfo", "NotifyRegistrationStatus"})
_TRIVIAL_SUFFIX = "GetCapabilities"

# Which fields tell what a call is about; the first that is set goes into the access log.
_SUBJECT_FIELDS = ("volume_id", "snapshot_id", "group_snapshot_id", "name", "source_volume_id")


class Service(Protocol):
    """A service: any subclass of betterproto's generated ServiceBase classes."""

    def __mapping__(self) -> Mapping[str, Handler]:
        """Its methods by their path."""
        ...


class Exchange(Protocol):
    """What betterproto's generated methods ask of grpclib's Stream."""

    async def recv_message(self) -> betterproto.Message:
        """The request."""
        ...

    async def send_message(self, message: betterproto.Message) -> None:
        """Take the response, or the next one of a stream."""
        ...


class _Observer(Protocol):
    def observe(self, amount: float) -> None: ...


class Method:
    """One method: how to call it, and its log level and metrics, looked up once."""

    def __init__(
        self,
        path: str,
        function: Callable[[Exchange], Awaitable[None]],
        request_type: type[betterproto.Message],
        response_type: type[betterproto.Message],
        metrics: Metrics,
        *,
        streaming: bool = False,
        announce: Announce = announce_nothing,
    ) -> None:
        """``path``: ``/csi.v1.Identity/Probe``. ``streaming``: any number of responses, instead of one. ``announce``
        is told of failures that a person must know of."""
        decode.prepare(request_type)
        encode.prepare(response_type)
        self.name = path.rpartition("/")[2]
        self.function = function
        self.request_type = request_type
        self.streaming = streaming
        self.announce = announce
        trivial = self.name in _TRIVIAL or self.name.endswith(_TRIVIAL_SUFFIX)
        self.level = logging.DEBUG if trivial else logging.INFO
        self.in_flight = metrics.rpc_in_flight.labels(self.name)
        self._seconds = metrics.rpc_seconds
        self._seconds_by_code: dict[Status, _Observer] = {}
        known = request_type.__dataclass_fields__  # type: ignore[attr-defined]  # messages are dataclasses
        self._subject_fields = tuple(name for name in _SUBJECT_FIELDS if name in known)

    def observe(self, code: Status, seconds: float) -> None:
        """Count a finished call."""
        observer = self._seconds_by_code.get(code)
        if observer is None:
            observer = self._seconds_by_code[code] = self._seconds.labels(self.name, code.name)
        observer.observe(seconds)

    def subject_of(self, request: betterproto.Message) -> dict[str, object]:
        """What the call is about, as a field for the log: ``{"volume_id": …}``."""
        for name in self._subject_fields:
            if value := getattr(request, name):
                return {name: value}
        return {}


def methods_of(
    services: Sequence[Service], metrics: Metrics, announce: Announce = announce_nothing
) -> dict[str, Method]:
    """All methods of ``services`` by their path. TypeError for a method that takes a stream of requests."""
    methods: dict[str, Method] = {}
    for service in services:
        for path, handler in service.__mapping__().items():
            if handler.cardinality.client_streaming:
                raise TypeError(f"{path} takes a stream of requests; CSI has no such method")
            methods[path] = Method(
                path,
                handler.func,
                handler.request_type,
                handler.reply_type,
                metrics,
                streaming=handler.cardinality.server_streaming,
                announce=announce,
            )
    return methods
