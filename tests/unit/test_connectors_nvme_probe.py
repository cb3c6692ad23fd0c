"""What a portal's answer in user space means for a connect."""

import asyncio
import socket

import pytest

from rds_csi.connectors.nvme_failures import Reason, failure
from rds_csi.connectors.nvme_probe import probe, reason_of
from rds_csi.deadline import set_deadline
from rds_csi.nvme.portal_probe import PortalState
from rds_csi.retry import Transient
from tests.support.portals import ADDRESS, ClosingPortal, HalfMutePortal, free_port


@pytest.mark.parametrize("state", list(PortalState))
def test_every_state_of_a_portal_has_a_meaning(state: PortalState) -> None:
    assert (reason_of(state) is None) == (state is PortalState.SPEAKS)


def test_only_another_service_and_a_missing_interface_end_the_attempts() -> None:
    reasons = {state: reason_of(state) for state in PortalState}
    final = {
        state
        for state, reason in reasons.items()
        if reason is not None and not isinstance(failure(reason, "192.0.2.1:4420", "nqn", ""), Transient)
    }
    assert final == {PortalState.OTHER, PortalState.NO_INTERFACE}
    # The kernel is asked all the same.
    assert [state for state, reason in reasons.items() if reason is Reason.UNTOLD] == [PortalState.NOT_ASKED]


async def test_a_portal_that_answers_is_in_nobodys_way() -> None:
    async with HalfMutePortal() as portal:
        assert await probe(portal.address, portal.port) is None
        assert await probe(portal.address, portal.port, "lo") is None


async def test_a_closed_port_refuses() -> None:
    assert await probe(ADDRESS, free_port()) is Reason.REFUSED


async def test_a_portal_that_closes_may_be_restarting() -> None:
    async with ClosingPortal() as portal:
        assert await probe(portal.address, portal.port) is Reason.RESET


async def test_an_interface_that_is_not_there_is_told() -> None:
    assert await probe(ADDRESS, 4420, "nothere0") is Reason.NO_INTERFACE


async def test_a_mute_portal_has_timed_out_at_the_callers_deadline() -> None:
    with socket.create_server((ADDRESS, 0)) as server:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        set_deadline(begun + 1.1)
        assert await probe(ADDRESS, server.getsockname()[1]) is Reason.TIMED_OUT
        assert loop.time() - begun < 1


async def test_a_call_without_time_left_does_not_wait() -> None:
    with socket.create_server((ADDRESS, 0)) as server:
        set_deadline(asyncio.get_running_loop().time())
        assert await probe(ADDRESS, server.getsockname()[1]) is Reason.TIMED_OUT
