"""The CSI server on its unix socket: start, and an end that lets running calls finish."""

import asyncio
import logging
from collections.abc import Sequence

from rds_csi import logging as log_lines
from rds_csi.metrics import Metrics
from rds_csi.model.notices import Announce, announce_nothing
from rds_csi.rpc.calls import Cause, Phase
from rds_csi.rpc.connections import Connections
from rds_csi.rpc.limits import Limits
from rds_csi.rpc.methods import Service, methods_of
from rds_csi.rpc.sockets import BACKLOG, SOCKET_MODE, Listener, listen, path_of

logger = logging.getLogger("rds_csi.rpc")

# How much of the grace period is kept for calls that have to be cancelled.
_FAREWELL_SHARE = 0.2


class CsiServer:
    """Serves ``services`` at ``endpoint`` (``unix:///path``) to whoever may open the socket file."""

    def __init__(
        self,
        endpoint: str,
        services: Sequence[Service],
        metrics: Metrics,
        *,
        limits: Limits | None = None,
        socket_mode: int = SOCKET_MODE,
        announce: Announce = announce_nothing,
    ) -> None:
        """ConfigurationError for an endpoint that is none. ``announce`` is told of failed calls that a person must
        know of."""
        self.path = path_of(endpoint)
        self._socket_mode = socket_mode
        self._limits = limits or Limits()
        self._connections = Connections(methods_of(services, metrics, announce), self._limits)
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. ConfigurationError when another server answers there, or the socket cannot be made."""
        listener = self._listener = await listen(self.path, self._socket_mode)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_unix_server(self._connections.make, sock=listener.socket, backlog=BACKLOG)
        except BaseException:
            listener.socket.close()
            listener.remove()
            raise
        log_lines.log(logger, logging.INFO, "serving", endpoint=f"unix://{self.path}")

    @property
    def is_reachable(self) -> bool:
        """Whether it listens, and the socket file that was made for it is still there."""
        return self._server is not None and self._listener is not None and self._listener.is_there()

    @property
    def open_connections(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    @property
    def running_calls(self) -> int:
        """How many calls have not ended, those included whose client has gone."""
        return len(self._connections.calls)

    async def drain(self, grace_seconds: float) -> None:
        """Stop within ``grace_seconds``: no new connections, UNAVAILABLE for new calls, and time for the running
        ones to finish, also for those whose client has gone. The last of the time is for undoing and reaping:
        what still runs then is cancelled, and the connections are closed."""
        if self._server is None or self._listener is None:
            return
        server, listener, self._server = self._server, self._listener, None
        self._connections.refusing = True
        server.close()
        listener.remove()
        # What was accepted a moment ago takes its first step, to be seen below.
        await asyncio.sleep(0)
        for call in list(self._connections.calls):
            if call.phase is Phase.RECEIVING:
                # Nothing has begun: it is told UNAVAILABLE, as those are that come now.
                call.stop(Cause.SHUTDOWN)
        farewell = min(self._limits.farewell_seconds, grace_seconds * _FAREWELL_SHARE)
        running = {call.task: call for call in self._connections.calls}
        if running:
            log_lines.log(logger, logging.INFO, "waiting for running calls", calls=len(running), grace=grace_seconds)
            await asyncio.wait(running, timeout=grace_seconds - farewell)
        late = {task: call for task, call in running.items() if not task.done()}
        for call in late.values():
            call.stop(Cause.SHUTDOWN)
        if late:
            await asyncio.wait(late, timeout=farewell)
        for task, call in late.items():
            log_lines.log(
                logger,
                logging.WARNING,
                "call cut off by the end of the grace period",
                method=call.method.name,
                ended=task.done(),
            )
        await self._connections.close(farewell)
        log_lines.log(logger, logging.INFO, "stopped", endpoint=f"unix://{self.path}")
