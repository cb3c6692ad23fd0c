"""One command in one throw-away virtual machine: its output as it comes, its exit status, a deadline."""

import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.vm.kernels import Kernel

# Exit statuses of our own, as timeout(1) and env(1) use them.
TIMED_OUT = 124
BROKEN = 125

DEFAULT_MEMORY = "2G"
DEFAULT_SECONDS = 600.0

# Where a guest leaves files for the host; nothing else that it writes is kept.
RESULTS = "/run/results"

# Past these the console is no longer read by anybody.
_CONSOLE_LINES = 40
# Killed, qemu is reaped within this time.
_REAP_SECONDS = 10.0

# What ends the output: the command's own cannot arrive behind its exit status, as both take the same way.
_TRAILER = re.compile(rb"\x00vm-exit ([0-9]{1,3})\n")
_TRAILER_BYTES = 13

# A job's environment: what finds the same programs and behaves the same as on the host, and no more.
_INHERITED = re.compile(r"CI|CSI_SANITY|HOME|PATH|PYTEST_\w+")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

# The kernel names the node of the one serial port vport<device>p<port>, some time after its module was loaded.
_JOB = """\
while port=$(echo /dev/vport*p1) && ! [ -c "$port" ]; do sleep 0.05; done
exec >"$port" 2>&1
mkdir {results} && mount -t 9p -o trans=virtio,version=9p2000.L results {results}
if cd {directory}; then
    setsid --wait env -i {environment} {command} </dev/null
    status=$?
else
    status={broken}
fi
printf '\\0vm-exit %d\\n' $status
exec >/dev/null 2>&1
while sleep 60; do :; done
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of virtual machine. ``arguments`` are the kernel's, added to those that every machine gets."""

    kernel: Kernel
    arguments: tuple[str, ...] = ()
    memory: str = DEFAULT_MEMORY
    cpus: int = 2

    def run(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        output: BinaryIO,
        results: Path | None = None,
        timeout: float = DEFAULT_SECONDS,
    ) -> int:
        """Boot, run ``command`` as root in ``directory`` and copy what it prints (both streams) to ``output``.

        What it writes to RESULTS lands in ``results``, when that is given. The command's exit status;
        TIMED_OUT after ``timeout`` seconds; BROKEN when the guest ended without one. For the last two the end
        of the guest's console goes to standard error.
        """
        with tempfile.TemporaryDirectory(prefix="rds-csi-vm-") as temporary:
            home = Path(temporary)
            (home / "results").mkdir()
            job, console = home / "job", home / "console"
            job.write_text(_job(command, directory))
            console.touch()
            qemu = self._qemu(job, console, results or home / "results")
            status = _boot(qemu, time.monotonic() + timeout, output)
            if status is None or status == TIMED_OUT:
                _tell(console, "ended without an exit status" if status is None else "ran out of time")
        return BROKEN if status is None else status

    def _qemu(self, job: Path, console: Path, results: Path) -> list[str]:
        arguments = [
            *("console=ttyS0", "quiet", "panic=-1", "reboot=t"),
            # What costs time under emulation and is no subject of these tests.
            *("mitigations=off", "nokaslr", "audit=0", "random.trust_cpu=on"),
            *self.arguments,
            # The kernel hands what it does not know to init, as a variable.
            f"vm_job={job}",
        ]
        return [
            "qemu-system-x86_64",
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            # microvm boots quicker, but hung in 2 of 22 boots (no timer to calibrate the TSC); q35 never did.
            *("-machine", "q35,usb=off,smbus=off,sata=off,vmport=off"),
            *("-accel", "tcg,thread=multi,tb-size=256"),
            # x86-64-v2, so that wheels run; "max" is slower under emulation (5-level page tables, big xsave).
            *("-cpu", "Nehalem,+rdrand", "-smp", str(self.cpus), "-m", self.memory),
            *("-kernel", str(self.kernel.vmlinux), "-initrd", str(self.kernel.initramfs)),
            *("-append", " ".join(arguments), "-serial", f"file:{console}"),
            *("-device", "virtio-rng-pci"),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *("-fsdev", f"local,id=results,path={results},security_model=none"),
            *("-device", "virtio-9p-pci,fsdev=results,mount_tag=results"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,nr=1,chardev=output"),
        ]


def _job(command: Sequence[str], directory: Path) -> str:
    inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    environment = {
        **inherited,
        "PATH": f"{inherited.get('PATH', os.defpath)}:{_SBIN}",
        "LANG": "C.UTF-8",
        # Compiling is slow in here, and what is written is lost: the host compiles beforehand.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return _JOB.format(
        directory=shlex.quote(str(directory)),
        environment=shlex.join(f"{name}={value}" for name, value in environment.items()),
        command=shlex.join(command),
        results=RESULTS,
        broken=BROKEN,
    )


def _boot(qemu: Sequence[str], deadline: float, output: BinaryIO) -> int | None:
    """Run the machine until its output, which its serial port writes into a pipe, tells the exit status."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [
                # Never outlive the caller, whatever ends it.
                *("setpriv", "--pdeathsig", "KILL"),
                *qemu,
                *("-add-fd", f"fd={writer},set=1", "-chardev", "file,id=output,path=/dev/fdset/1,append=on"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(writer)
    try:
        return _relay(reader, output, deadline)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(_REAP_SECONDS)
        os.close(reader)


def _relay(reader: int, output: BinaryIO, deadline: float) -> int | None:
    """Copy until the trailer, the end of the machine (None) or the deadline (TIMED_OUT)."""
    pending = b""
    while (remaining := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([reader], [], [], remaining)
        if not ready:
            break
        chunk = os.read(reader, 1 << 16)
        pending += chunk
        trailer = _TRAILER.search(pending)
        # What may be the beginning of a trailer waits for the rest.
        cut = pending.rfind(b"\x00", max(0, len(pending) - _TRAILER_BYTES)) if chunk else -1
        shown = pending[: trailer.start()] if trailer else pending[:cut] if cut >= 0 else pending
        output.write(shown)
        output.flush()
        pending = pending[len(shown) :]
        # A child of the command that lives on may still print: nobody asked for that.
        if trailer:
            return int(trailer[1])
        if not chunk:
            return None
    return TIMED_OUT


def _tell(console: Path, what: str) -> None:
    lines = console.read_text(errors="replace").splitlines()[-_CONSOLE_LINES:]
    print(f"the virtual machine {what}; the end of its console:", *lines, sep="\n  ", file=sys.stderr, flush=True)
