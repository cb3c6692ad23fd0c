"""nvme-cli's arguments for a connect: the whole config, but only what differs from the kernel's defaults.

Source: nvme-connect(1). Only short options that nvme-cli 2.3 and 2.13 share: 2.13 renamed and dropped some of the
long ones. ``fast_io_fail_tmo`` is unknown to 2.3: the connector writes it to sysfs.
"""

from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity

# drivers/nvme/host/fabrics.h: NVMF_DEF_QUEUE_SIZE.
_KERNEL_QUEUE_SIZE = 128


def build_connect_args(
    target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity
) -> tuple[str, ...]:
    """The arguments after ``nvme`` that connect ``target`` through its portal ``address``."""
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
    if config.hdr_digest:
        arguments.append("-g")
    if config.data_digest:
        arguments.append("-G")
    return tuple(arguments)
