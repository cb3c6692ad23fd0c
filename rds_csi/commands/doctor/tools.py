"""The doctor on programs: those that the driver starts, their versions, and the Debian package that brings each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from rds_csi.commands.doctor.findings import Result, State, missing, ok, result_of, together, warning
from rds_csi.errors import DriverError
from rds_csi.filesystem.tools import TOOLS, Tool, find_program
from rds_csi.model.volumes import Finding
from rds_csi.process import Completed, Runner

Find = Callable[[str], str | None]

# What each NVMe connector starts beside modprobe.
CONNECTOR_TOOLS = {"nvme-cli": Tool("nvme", "nvme-cli"), "fabrics": Tool("dd", "coreutils")}
_MODPROBE = Tool("modprobe", "kmod")
_PACKAGES = {tool.name: tool.package for tool in (*TOOLS, *CONNECTOR_TOOLS.values(), _MODPROBE)}

# How each is asked for its version without doing anything; "" for one that cannot be asked.
_VERSION_FLAG = "--version"
_VERSION_FLAGS = {
    "nvme": "version",
    "mkfs.ext4": "-V",
    "e2fsck": "-V",
    "mkfs.xfs": "-V",
    "xfs_growfs": "-V",
    "resize2fs": "",
}
_VERSION_SECONDS = 10.0
# Before it, the meaning of -l and of the exit status was another (nvme-cli 1.x).
_OLDEST_NVME_CLI = (2, 3)
_DETAILS = re.compile(r"\s*\((?:lib|git).*")
_NVME_CLI = re.compile(r"nvme version (\d+)\.(\d+)")


async def look_at_tools(
    runner: Runner, filesystems: Sequence[Finding], connector: str, find: Find = find_program
) -> Sequence[Result]:
    """``filesystems``: what ``Filesystems.check`` found, one finding for each program and the kernel's mount API."""
    results = [result_of(finding) for finding in filesystems]
    if connector in CONNECTOR_TOOLS:
        results += [_connector_tool(CONNECTOR_TOOLS[connector], find), _modprobe(find)]
    return await together(_with_version(runner, result) for result in results)


def _connector_tool(tool: Tool, find: Find) -> Result:
    path = find(tool.name)
    return ok(tool.name, path) if path else missing(tool.name, "not installed", _install(tool.name))


def _modprobe(find: Find) -> Result:
    path = find(_MODPROBE.name)
    if path:
        return ok(_MODPROBE.name, path)
    return warning(_MODPROBE.name, "not installed: the driver cannot load nvme-tcp itself", _install(_MODPROBE.name))


async def _with_version(runner: Runner, result: Result) -> Result:
    """The result with the version of the program that it is about, where there is one."""
    flag = _VERSION_FLAGS.get(result.subject, _VERSION_FLAG)
    if result.state is not State.OK or result.subject not in _PACKAGES or not flag:
        return result
    try:
        completed = await runner.run(result.subject, flag, timeout=_VERSION_SECONDS)
    except DriverError as error:
        return missing(result.subject, f"{result.message} does not run: {error.message}", _install(result.subject))
    if completed.returncode != 0:
        message = f"{result.message} does not run: {completed.last_line}"
        return missing(result.subject, message, _install(result.subject))
    return _judged(replace(result, message=f"{result.message}, {_version(completed)}"))


def _version(completed: Completed) -> str:
    """The first line, without the libraries and commits that some put behind it."""
    lines = (_DETAILS.sub("", line).strip() for line in f"{completed.stdout}\n{completed.stderr}".splitlines())
    return next((line for line in lines if line), "no version told")[:100]


def _judged(result: Result) -> Result:
    """The two whose kind or age matters."""
    if result.subject == "dd" and "coreutils" not in result.message:
        return missing("dd", f"{result.message} is not GNU dd, which knows conv=nocreat", _install("dd"))
    found = _NVME_CLI.search(result.message)
    if found is not None and (int(found[1]), int(found[2])) < _OLDEST_NVME_CLI:
        return warning("nvme", f"{result.message} is older than any that was tried", "Install nvme-cli 2.3 or later.")
    return result


def _install(name: str) -> str:
    return f"apt-get install {_PACKAGES[name]}"
