"""How a script ends before its last statement: refused while it is read, stopped by an error, or returned from."""

from rds_csi.simulator.console.values import Value
from rds_csi.simulator.menu import RouterosError


class ParseError(RouterosError):
    """The text is not RouterOS's language; nothing of it was executed. The text ends with line and column."""


class ScriptError(RouterosError):
    """A statement failed. ``text`` is what ``:onerror`` sees; ``place`` is what a job's report adds to it."""

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.place = place


class ScriptReturn(Exception):
    """``:return``: ends the function (or the whole script) with a value."""

    def __init__(self, value: Value) -> None:
        super().__init__("return")
        self.value = value
