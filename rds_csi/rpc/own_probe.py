"""Health that is true: the driver calls its own Identity.Probe over its own socket, as kubelet and sidecars would.

Whatever keeps them from an answer (a removed socket file, a dead accept loop, a full backlog, a stuck event loop) keeps
this from one too. So every probe connects anew: a connection that is kept would answer behind a socket that is gone.
It costs a millisecond or two each time that the kubelet asks.
"""

import asyncio
from enum import Enum

from rds_csi.rpc.sockets import path_of

# Below the time that the HTTP endpoint gives a check (4 s), which is below the kubelet's (5 s): the answer says what is
# wrong instead of that a check took too long.
PROBE_SECONDS = 3.5


class Phase(Enum):
    """What the CSI socket is expected to do."""

    STARTING = "the driver is starting: the CSI socket is not served yet"
    SERVING = ""
    STOPPING = "the driver is stopping: the CSI socket is not served any more"


class OwnProbe:
    """Whether the CSI socket answers, for as long as it should."""

    def __init__(self, endpoint: str, *, timeout: float = PROBE_SECONDS) -> None:
        """``endpoint``: ``unix:///path`` of the CSI socket; ``timeout`` in seconds for one probe."""
        self._path = path_of(endpoint)
        self._timeout = timeout
        self.phase = Phase.STARTING

    async def healthy(self) -> str:
        """What is wrong in one sentence, for /healthz: "" also while the socket is not served yet (the first sweep may
        take two minutes) or no more (running calls get their time), when a restart would do harm.

        A Probe that answers "not ready" is an answer: tools that are missing do not come by a restart.
        """
        if self.phase is not Phase.SERVING:
            return ""
        problem = await self._problem()
        # Asked while the end began: the socket has gone as it should.
        return problem if self.phase is Phase.SERVING else ""

    async def serving(self) -> str:
        """Why the socket is not served now, for /readyz; "" when it is. Nobody is asked."""
        return self.phase.value

    async def _problem(self) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                await self._probe()
        except TimeoutError:
            return f"the CSI socket does not answer: nothing came within {self._timeout:g} s"
        except OSError as error:
            return f"the CSI socket does not answer: {error.strerror or type(error).__name__}"
        except Exception as error:
            # grpclib's and h2's own: a status, or a connection that ended in the middle.
            return f"the driver's own Probe failed: {type(error).__name__}: {error}"
        return ""

    async def _probe(self) -> None:
        # Only a server with an HTTP endpoint is a client, too.
        from grpclib.client import Channel  # noqa: PLC0415

        from rds_csi.csi.v1 import IdentityStub, ProbeRequest  # noqa: PLC0415

        async with Channel(path=self._path) as channel:
            await IdentityStub(channel).probe(ProbeRequest())
