"""nvme-cli's arguments for a connect: the whole config, but only what differs from the kernel's defaults.

Source: nvme-connect(1). Only short options that nvme-cli 2.3 and 2.13 share: 2.13 renamed and dropped some of the
long ones. ``fast_io_fail_tmo`` is unknown to 2.3: the connector writes it to sysfs.
"""

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity

# drivers/nvme/host/fabrics.h: NVMF_DEF_QUEUE_SIZE.
_KERNEL_QUEUE_SIZE = 128


# drivers/nvme/host/fabrics.c, nvmf_parse_options: NVMF_NQN_SIZE (223) bytes or more are EINVAL, although the NVMe Base
# Specification allows 223.
_KERNEL_NQN_BYTES = 222

_RENAME = "Rename the subsystem on the array."
_NEW_HOSTNQN = "Write another pair to /etc/nvme/hostnqn and hostid on this node, and allow it on the array."


def check_values(nqn: str, hostnqn: str, *addresses: str) -> None:
    """InvalidArgument when Linux cannot be given a name: longer than it takes, or taken for another option as well,
    because all options are handed to it (by nvme-cli, too) as one line, separated by commas, and an NQN may have a
    comma in it. Asks nobody."""
    for what, value, remedy in (("the NQN", nqn, _RENAME), ("this host's NQN", hostnqn, _NEW_HOSTNQN)):
        _refuse_comma(value, remedy)
        if len(value.encode()) > _KERNEL_NQN_BYTES:
            raise InvalidArgument(
                f"{what} has {len(value.encode())} bytes, and Linux takes at most {_KERNEL_NQN_BYTES}: {value}",
                remedy=remedy,
            )
    for address in addresses:
        _refuse_comma(address, "Correct the volume's address.")


def _refuse_comma(value: str, remedy: str) -> None:
    if "," in value:
        raise InvalidArgument(f"the kernel cannot be given a value with a comma in it: {value!r}", remedy=remedy)


def build_connect_args(
    target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity
) -> tuple[str, ...]:
    """The arguments after ``nvme`` that connect ``target`` through its portal ``address``."""
    check_values(target.nqn, identity.hostnqn, address)
    arguments = ["connect", "-t", "tcp", "-a", address, "-s", str(target.port), "-n", target.nqn]
    arguments += ["-q", identity.hostnqn, "-I", identity.hostid]
    if config.ctrl_loss_tmo != 0:
        arguments += ["-l", str(config.ctrl_loss_tmo)]
    positive = {
        "-c": config.reconnect_delay,
        "-k": config.keep_alive_tmo,
        "-i": config.nr_io_queues,
        "-W": config.nr_write_queues,
        "-P": config.nr_poll_queues,
    }
    for option, value in positive.items():
        if value > 0:
            arguments += [option, str(value)]
    if config.queue_size != _KERNEL_QUEUE_SIZE:
        arguments += ["-Q", str(config.queue_size)]
    if config.tos >= 0:
        arguments += ["-T", str(config.tos)]
    if config.host_iface:
        arguments += ["-f", config.host_iface]
    if config.hdr_digest:
        arguments.append("-g")
    if config.data_digest:
        arguments.append("-G")
    return tuple(arguments)
