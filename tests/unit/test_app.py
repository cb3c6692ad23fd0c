"""What is opened at start, and what a wrong flag, URL or directory is told."""

from pathlib import Path

import anyio
import betterproto
import pytest
from grpclib.client import Channel

from rds_csi.app import Role, Server, _unless
from rds_csi.csi.v1 import (
    GetPluginCapabilitiesRequest,
    IdentityStub,
    NodeGetInfoRequest,
    NodeStub,
    PluginCapabilityServiceType,
    ProbeRequest,
)
from rds_csi.errors import ConfigurationError
from rds_csi.settings import load_settings


def flags(directory: Path, **changes: str) -> dict[str, str]:
    """Flags that work without root."""
    return {
        "endpoint": f"unix://{directory}/csi.sock",
        "array": f"local://{directory}/array",
        "connector": "memory",
        "node_id": "node-1",
        "state_dir": f"{directory}/state",
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"array": "lokal:///x"}, r"no array 'lokal' \(did you mean 'local'\?\)"),
        ({"array": "/x"}, "is not a URL"),
        ({"connector": "nvmecli"}, r"no connector 'nvmecli' \(did you mean 'nvme-cli'\?\)"),
        ({"array": "local:///proc/none"}, "/proc/none cannot be"),
        ({"state_dir": "/proc/none"}, "nothing can be written to --state-dir /proc/none"),
        ({"host_root": "/proc/none"}, "boot id cannot be read"),
        ({"endpoint": "unix:///proc/none/csi.sock"}, "no socket can be made"),
        ({"http_endpoint": "192.0.2.1:80"}, "cannot listen on"),
    ],
)
async def test_what_cannot_be_opened_is_told_and_leaves_no_socket(
    tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    server = Server(load_settings(flags(tmp_path, **changes)), Role.ALL)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        await server.run(anyio.Event())
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.is_socket()]  # noqa: ASYNC240 - a test may block


@pytest.mark.parametrize(
    ("role", "controller"),
    [(Role.CONTROLLER, True), (Role.NODE, False), (Role.ALL, True)],
    ids=str,
)
async def test_each_role_serves_its_half_and_stops_clean(tmp_path: Path, role: Role, controller: bool) -> None:
    stop, started = anyio.Event(), anyio.Event()
    server = Server(load_settings(flags(tmp_path)), role)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, stop, started.set)
        await started.wait()
        async with Channel(path=f"{tmp_path}/csi.sock") as channel:
            identity = IdentityStub(channel)
            assert (await identity.probe(ProbeRequest())).ready
            capabilities = await identity.get_plugin_capabilities(GetPluginCapabilitiesRequest())
            services = [
                capability.service.type
                for capability in capabilities.capabilities
                if betterproto.which_one_of(capability, "type")[0] == "service"
            ]
            assert (PluginCapabilityServiceType.CONTROLLER_SERVICE in services) is controller
            if Role.NODE in role:
                assert (await NodeStub(channel).node_get_info(NodeGetInfoRequest())).node_id == "node-1"
        stop.set()
    assert not (tmp_path / "csi.sock").exists()


async def test_a_stop_during_the_first_sweep_is_heard() -> None:
    stop = anyio.Event()

    async def sweep() -> None:
        stop.set()
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        await _unless(stop, sweep)


async def test_what_ends_before_the_stop_is_waited_for() -> None:
    done: list[str] = []

    async def sweep() -> None:
        done.append("swept")

    with anyio.fail_after(10):
        await _unless(anyio.Event(), sweep)
    assert done == ["swept"]
