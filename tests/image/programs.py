"""Which programs the driver starts, read from its code: the image has to bring each of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rds_csi"
# The runner's methods whose first argument is a program.
_METHODS = frozenset({"run", "run_to_end"})
# Where functions return whole command lines for somebody else to run.
_COMMAND_LINES = ("filesystem/mkfs.py", "filesystem/growing.py")


def started_programs(package: Path = PACKAGE) -> frozenset[str]:
    """The names of all programs that the driver's code starts."""
    found = {name for path in package.rglob("*.py") for name in _arguments(ast.parse(path.read_text()))}
    return frozenset(found.union(*(_returned(ast.parse((package / path).read_text())) for path in _COMMAND_LINES)))


def _arguments(tree: ast.AST) -> Iterator[str]:
    """``runner.run("blkid", …)`` → ``blkid``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            yield from _text(node.args[:1])


def _returned(tree: ast.AST) -> Iterator[str]:
    """``return ("mkfs.xfs", …)`` → ``mkfs.xfs``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            yield from _text(node.value.elts[:1])


def _text(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
