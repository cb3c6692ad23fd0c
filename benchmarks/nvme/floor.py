"""The same steps as bare commands: one bash process that starts nothing but what changes the machine."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from benchmarks.nvme.target import Exported, fabrics_options
from rds_csi.connectors.nvme_args import build_connect_args
from rds_csi.model.connection import ConnectionConfig
from rds_csi.nvme.identity import HostIdentity
from tests.support.nvmet_target import ADDRESS

FLOOR_SECONDS = 600.0
SETTLE_SECONDS = 30.0
SUBSYSTEMS = Path("/sys/class/nvme-subsystem")
CONTROLLERS = Path("/sys/class/nvme")

# The device's name is foreseen, and proved by the namespace's UUID: searching for it is the driver's work.
_FUNCTIONS = r"""
set -e
mkfifo "/run/never-$$"; exec {never}<>"/run/never-$$"; rm "/run/never-$$"
connect_cli() { nvme connect $1; }
connect_fabrics() { printf %s "$1" >/dev/nvme-fabrics; }
disconnect_cli() { nvme disconnect -n "$1" >/dev/null; }
disconnect_fabrics() { echo 1 >"/sys/class/nvme/$2/delete_controller"; }
await() {
    until read -r found 2>/dev/null <"/sys/block/$1/uuid" && [[ $found == "$2" && -b /dev/$1 ]]; do
        ((SECONDS < 500)) || { echo "no $1 with $2" >&2; exit 1; }
        read -rt 0.01 <&$never || :
    done
}
marks=()
mark() { marks+=("${EPOCHREALTIME/[.,]/}"); }
"""

_LIFE = r"""
mark
connect_$HOW "$CONNECT"; await "$DEVICE" "$UUID"; mount -t ext4 "/dev/$DEVICE" "$STAGING"
mark
mkdir "$POD"; mount --bind "$STAGING" "$POD"
mark
umount "$POD"; rmdir "$POD"
mark
umount "$STAGING"; disconnect_$HOW "$NQN" "$CONTROLLER"
mark
echo "${marks[*]}"
"""

# One line for each volume: device, UUID, staging path, and what connects it.
_BURST = r"""
volumes=()
while read -r line; do volumes+=("$line"); done
mark
for volume in "${volumes[@]}"; do
    read -r device uuid staging connect <<<"$volume"
    connect_$HOW "$connect"; await "$device" "$uuid"; mount -t ext4 "/dev/$device" "$staging"
done
mark
for volume in "${volumes[@]}"; do
    read -r device uuid staging connect <<<"$volume"
    umount "$staging"; disconnect_$HOW "$PREFIX${staging##*/}" "${device%n1}"
done
mark
echo "${marks[*]}"
"""


class How(StrEnum):
    """What makes and ends a session in a floor."""

    CLI = "cli"
    FABRICS = "fabrics"


@dataclass(frozen=True, slots=True)
class Floor:
    """Bare steps with the identity and the values that the driver has, below ``directory``."""

    directory: Path
    identity: HostIdentity

    def life(self, how: How, volume: Exported) -> list[float]:
        """Stage, publish, unpublish and unstage one volume: seconds of each."""
        controller = f"nvme{first_free()}"
        staging = self.directory / "staging" / volume.volume_id
        staging.mkdir(parents=True, exist_ok=True)
        variables = {
            "HOW": how,
            "CONNECT": self._connect(how, volume),
            "NQN": volume.target.nqn,
            "UUID": volume.uuid,
            "CONTROLLER": controller,
            "DEVICE": f"{controller}n1",
            "STAGING": str(staging),
            "POD": str(self.directory / "pod"),
        }
        return _run(_FUNCTIONS + _LIFE, variables, "")

    def burst(self, how: How, volumes: Sequence[Exported]) -> list[float]:
        """Stage all volumes one after the other, and unstage them: seconds of both."""
        free = first_free()
        lines = []
        for number, volume in enumerate(volumes, start=free):
            staging = self.directory / "staging" / volume.volume_id
            staging.mkdir(parents=True, exist_ok=True)
            lines.append(f"nvme{number}n1 {volume.uuid} {staging} {self._connect(how, volume)}\n")
        prefix = volumes[0].target.nqn.removesuffix(volumes[0].volume_id)
        return _run(_FUNCTIONS + _BURST, {"HOW": how, "PREFIX": prefix}, "".join(lines))

    def _connect(self, how: How, volume: Exported) -> str:
        config = ConnectionConfig()
        if how is How.CLI:
            return " ".join(build_connect_args(volume.target, ADDRESS, config, self.identity)[1:])
        return fabrics_options(volume.target, host_options(self.identity))


def host_options(identity: HostIdentity) -> str:
    """What /dev/nvme-fabrics is told of this host, and the driver's default times."""
    config = ConnectionConfig()
    return (
        f"hostnqn={identity.hostnqn},hostid={identity.hostid},"
        f"ctrl_loss_tmo={config.ctrl_loss_tmo},reconnect_delay={config.reconnect_delay}"
    )


def _run(script: str, variables: dict[str, str], lines: str) -> list[float]:
    completed = subprocess.run(
        ["bash", "-c", script],
        input=lines,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=FLOOR_SECONDS,
        env={**os.environ, "LC_ALL": "C", **variables},
    )
    marks = [int(word) for word in completed.stdout.split()]
    return [(after - before) / 1e6 for before, after in pairwise(marks)]


def _numbers() -> set[int]:
    paths = (*SUBSYSTEMS.iterdir(), *CONTROLLERS.iterdir())
    names = [path.name.removeprefix("nvme").removeprefix("-subsys") for path in paths]
    return {int(name) for name in names if name.isdecimal()}


def first_free() -> int:
    """The number that the kernel gives to the next subsystem and its controller."""
    taken = _numbers()
    return next(number for number in range(len(taken) + 1) if number not in taken)


def settle(sessions: int) -> None:
    """Wait until there are ``sessions`` sessions and nothing of the last one is still being taken down."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(_numbers()) != sessions:
        assert time.monotonic() < deadline, f"{len(_numbers())} sessions, not {sessions}"
        time.sleep(0.05)
    time.sleep(0.1)
