"""Variables: cells, found from the inner block outwards; a global one is a cell of the session."""

from dataclasses import dataclass, field
from typing import Self

from rds_csi.simulator.console.values import NOTHING, Value


@dataclass(slots=True)
class Cell:
    """One variable."""

    value: Value = NOTHING


@dataclass(slots=True)
class Scope:
    """The variables of one block, and those around it."""

    parent: Self | None = None
    cells: dict[str, Cell] = field(default_factory=dict)

    def find(self, name: str) -> Cell | None:
        """The innermost variable of that name."""
        scope: Scope | None = self
        while scope is not None:
            cell = scope.cells.get(name)
            if cell is not None:
                return cell
            scope = scope.parent
        return None

    def define(self, name: str, value: Value = NOTHING) -> None:
        """Makes a variable of this block, whatever is outside."""
        self.cells[name] = Cell(value)
