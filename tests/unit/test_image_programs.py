"""The programs that the driver starts: found in its code, and each of them named by the doctor."""

from pathlib import Path

from rds_csi.commands.doctor.tools import CONNECTOR_TOOLS
from rds_csi.filesystem.tools import TOOLS
from tests.image.programs import started_programs

# The doctor looks for it where an NVMe connector is chosen.
MODPROBE = "modprobe"


def test_every_program_that_is_started_is_looked_for() -> None:
    looked_for = {tool.name for tool in (*TOOLS, *CONNECTOR_TOOLS.values())} | {MODPROBE}

    assert started_programs() == looked_for


def test_a_new_program_is_found(tmp_path: Path) -> None:
    (tmp_path / "filesystem").mkdir()
    (tmp_path / "filesystem/mkfs.py").write_text("def f(p):\n    return ('mkfs.new', p)\n")
    (tmp_path / "filesystem/growing.py").write_text("")
    (tmp_path / "other.py").write_text("async def f(runner):\n    await runner.run_to_end('lsnew', '-a', timeout=1)\n")

    assert started_programs(tmp_path) == {"mkfs.new", "lsnew"}
