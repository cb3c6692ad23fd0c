"""``python -m benchmarks.routeros_device DIRECTORY LATENCY VOLUMES``: a simulated RouterOS in a process of its own.

It has so many volumes from the start, made as the driver makes them, and prints one line: where it is, as JSON.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.options import DEFAULT_BASE
from rds_csi.arrays.routeros.values import normal_path
from rds_csi.arrays.routeros.volumes import file_disk
from rds_csi.model.names import DEFAULT_DRIVER_NAME
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import AccessMode, Attachment, Node
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import PoolOptions, UserOptions
from rds_csi.simulator.options import DRIVER_GROUP, SimulatorOptions
from rds_csi.simulator.server import Simulator

POOL = "raid10"
CLUSTER = "bench"
NQN_PREFIX = f"nqn.2026-01.io.rds-csi:{CLUSTER}:"
USERS = tuple(f"csi-{number}" for number in range(8))
_NAMES = Names(
    driver=DEFAULT_DRIVER_NAME,
    cluster=CLUSTER,
    nqn_prefix=NQN_PREFIX,
    pool_directory=POOL,
    base=DEFAULT_BASE,
    subvolumes=False,
)


def volume_id(number: int) -> str:
    """As an external provisioner names it."""
    return f"pvc-00000000-0000-4000-8000-{number:012d}"


def furnish(device: Device, count: int) -> None:
    """Make the volumes; every tenth is published to a node."""
    device.storage.make_directory(_NAMES.directory)
    for number in range(count):
        name = volume_id(number)
        node = Node(f"node-{number % 50}", f"nqn.2014-08.org.nvmexpress:uuid:{number:032x}")
        attachment = Attachment(node, f"{number:032x}", AccessMode.SINGLE_NODE_WRITER)
        attachments = (attachment,) if number % 10 == 0 else ()
        mark = Mark(Kind.VOLUME, DEFAULT_DRIVER_NAME, CLUSTER, name, name, attachments=attachments)
        device.disks.attach(
            {
                **file_disk(_NAMES.slot(name), normal_path(_NAMES.volume_path(name)), GIB),
                "nvme-tcp-export": "yes",
                "nvme-tcp-server-port": "4420",
                "nvme-tcp-server-nqn": _NAMES.nqn(name),
                "comment": mark.encode(),
            }
        )


async def run(directory: Path, latency: float, volumes: int) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    options = SimulatorOptions(
        directory=directory / "device",
        pools=(PoolOptions(slot=POOL, size=GIB << 20),),
        users=tuple(UserOptions(user, DRIVER_GROUP.name) for user in USERS),
        control_port=0,
        latency=latency,
    )
    (directory / "device").mkdir()
    async with Simulator(options) as simulator:
        furnish(simulator.device, volumes)
        files = simulator.write_credentials(directory / "credentials")
        query = f"pool={POOL}&cluster={CLUSTER}"
        keys = f"key-file={files.client_key}&known-hosts={files.known_hosts}"
        trust = f"tls-ca={files.tls_ca}"
        https = f"127.0.0.1:{simulator.https_port}/?{query}&{trust}"
        ssh = f"routeros+ssh://{USERS[0]}@127.0.0.1:{simulator.ssh_port}/?{query}&{keys}"
        places = {
            "ssh": ssh,
            "ssh, 8 channels": f"{ssh}&channels=8",
            "https": f"routeros+https://{USERS[0]}@{https}&password-file={files.password}",
            "https, 8 users": f"routeros+https://{https}&users-file={files.users}",
            "counters": f"http://127.0.0.1:{simulator.control_port}/counters",
        }
        print(json.dumps(places), flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
