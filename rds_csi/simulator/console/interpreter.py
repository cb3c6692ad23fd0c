"""Running a parsed script: statements, blocks, loops and errors that are caught."""

from collections.abc import Awaitable, Callable, Mapping

from rds_csi.simulator.console.errors import ScriptError, ScriptReturn
from rds_csi.simulator.console.functions import FUNCTIONS
from rds_csi.simulator.console.nodes import Element, Variable
from rds_csi.simulator.console.program import Argument, Block, Call, GlobalCommand, MenuCommand, Statement
from rds_csi.simulator.console.running import Run
from rds_csi.simulator.console.scope import Cell, Scope
from rds_csi.simulator.console.serialize import parse_options, to_json
from rds_csi.simulator.console.values import (
    NOTHING,
    Function,
    Map,
    Time,
    Value,
    checked_array,
    time_from,
    to_number,
    to_text,
    truth,
)
from rds_csi.simulator.menu import RouterosError

# Functions that call each other.
_MAX_CALLS = 40


class BlockRunner:
    """The frame of one block: its variables, and the statements that run with them."""

    def __init__(self, run: Run, scope: Scope) -> None:
        self._run = run
        self._scope = scope

    def read(self, name: str) -> Value:
        """The value of a variable; NOTHING when it was never set."""
        cell = self._scope.find(name)
        return NOTHING if cell is None else cell.value

    async def substitute(self, block: object) -> Value:
        """The value of the last statement of a block in ``[ ]``."""
        assert isinstance(block, Block)
        return await self.inside(block)

    async def inside(self, block: Argument | None, variables: Mapping[str, Value] | None = None) -> Value:
        """Runs a block in a scope of its own, in which ``variables`` exist."""
        if not isinstance(block, Block):
            return NOTHING
        scope = Scope(self._scope)
        for name, value in (variables or {}).items():
            scope.define(name, value)
        return await BlockRunner(self._run, scope).run(block)

    async def run(self, block: Block) -> Value:
        """Runs the statements one after the other; the value of the last."""
        value: Value = NOTHING
        for statement in block.statements:
            await self._run.step()
            value = await self._statement(statement)
        return value

    async def _statement(self, statement: Statement) -> Value:
        if isinstance(statement, Block):
            return await self.inside(statement)
        try:
            if isinstance(statement, MenuCommand):
                return await self._run.around.menus.run(statement, self)
            if isinstance(statement, Call):
                return await self._call(statement)
            handler = _HANDLERS.get(statement.name)
            return await (handler(self, statement) if handler else self._function(statement))
        except ScriptError:
            raise
        except RouterosError as error:
            raise ScriptError(error.text, statement.place) from error

    async def _value(self, command: GlobalCommand, name: str) -> Value:
        node = command.arguments.get(name)
        return NOTHING if node is None or isinstance(node, Block) else await node.evaluate(self)

    async def _text(self, command: GlobalCommand, name: str) -> str:
        return to_text(await self._value(command, name))

    async def _function(self, command: GlobalCommand) -> Value:
        return FUNCTIONS[command.name]({name: await self._value(command, name) for name in command.arguments})

    async def _call(self, call: Call) -> Value:
        function = self.read(call.name)
        if not isinstance(function, Function) or not isinstance(function.block, Block):
            # A variable as a command gives its value, as "[$x]" does.
            return function
        scope = Scope()
        for name, node in call.arguments.items():
            scope.define(name, await node.evaluate(self))
        self._run.calls += 1
        try:
            if self._run.calls > _MAX_CALLS:
                raise RouterosError("maximum stack depth reached")
            return await BlockRunner(self._run, scope).run(function.block)
        except ScriptReturn as result:
            return result.value
        finally:
            self._run.calls -= 1

    # Variables.

    async def _given(self, command: GlobalCommand) -> Value:
        block = command.arguments.get("do")
        return Function(block) if block is not None else await self._value(command, "value")

    async def _local(self, command: GlobalCommand) -> Value:
        self._scope.define(await self._text(command, "name"), await self._given(command))
        return NOTHING

    async def _global(self, command: GlobalCommand) -> Value:
        name = await self._text(command, "name")
        cell = self._run.around.variables.setdefault(name, Cell())
        if "value" in command.arguments or "do" in command.arguments:
            cell.value = await self._given(command)
        self._scope.cells[name] = cell
        return NOTHING

    async def _set(self, command: GlobalCommand) -> Value:
        target = command.arguments["name"]
        value = await self._given(command)
        if isinstance(target, Element):
            await self._set_element(target, value)
            return NOTHING
        cell = self._scope.find(await self._text(command, "name"))
        if cell is not None:
            cell.value = value
        return NOTHING

    async def _set_element(self, target: Element, value: Value) -> None:
        assert isinstance(target.base, Variable)
        cell = self._scope.find(target.base.name)
        key = await target.key.evaluate(self)
        if cell is not None:
            cell.value = _with_element(cell.value, key, value)

    # Printing and errors.

    async def _put(self, command: GlobalCommand) -> Value:
        await self._run.around.output.say(await self._text(command, "message"))
        return NOTHING

    async def _error(self, command: GlobalCommand) -> Value:
        raise ScriptError(await self._text(command, "message"), command.place)

    async def _return(self, command: GlobalCommand) -> Value:
        raise ScriptReturn(await self._value(command, "value"))

    async def _onerror(self, command: GlobalCommand) -> Value:
        try:
            return await self.inside(command.arguments["in"])
        except RouterosError as error:
            name = await self._text(command, "error")
            return await self.inside(command.arguments["do"], {name: error.text})

    # Flow.

    async def _condition(self, node: Argument) -> bool:
        return not isinstance(node, Block) and truth(await node.evaluate(self))

    async def _if(self, command: GlobalCommand) -> Value:
        holds = await self._condition(command.arguments["condition"])
        return await self.inside(command.arguments.get("do" if holds else "else"))

    async def _do(self, command: GlobalCommand) -> Value:
        value = await self._tried(command)
        again = command.arguments.get("while")
        while again is not None and await self._condition(again):
            await self._run.step()
            value = await self._tried(command)
        return value

    async def _tried(self, command: GlobalCommand) -> Value:
        instead = command.arguments.get("on-error")
        if instead is None:
            return await self.inside(command.arguments["command"])
        try:
            return await self.inside(command.arguments["command"])
        except RouterosError:
            return await self.inside(instead)

    async def _while(self, command: GlobalCommand) -> Value:
        while await self._condition(command.arguments["condition"]):
            await self._run.step()
            await self.inside(command.arguments["do"])
        return NOTHING

    async def _for(self, command: GlobalCommand) -> Value:
        name = await self._text(command, "counter")
        bounds = [to_number(await self._value(command, bound)) for bound in ("from", "to")]
        step = to_number(await self._value(command, "step")) if "step" in command.arguments else None
        begin, end = bounds
        if begin is None or end is None or step == 0:
            raise RouterosError("invalid value for argument from")
        step = step or (1 if begin <= end else -1)
        for number in range(begin, end + (1 if step > 0 else -1), step):
            await self._run.step()
            await self.inside(command.arguments["do"], {name: number})
        return NOTHING

    async def _foreach(self, command: GlobalCommand) -> Value:
        names = (await self._text(command, "counter")).split(",")
        for key, value in _pairs(await self._value(command, "in")):
            await self._run.step()
            pair = [key, value] if len(names) > 1 else [value]
            await self.inside(command.arguments["do"], dict(zip(names, pair, strict=True)))
        return NOTHING

    # The rest.

    async def _serialize(self, command: GlobalCommand) -> Value:
        if await self._text(command, "to") != "json":
            raise RouterosError("input does not match any value of to")
        options = parse_options(to_text(await self._word(command, "options")), self._run.around.version)
        return await to_json(await self._value(command, "value"), options)

    async def _word(self, command: GlobalCommand, name: str) -> Value:
        value = await self._value(command, name)
        return ",".join(map(to_text, value)) if isinstance(value, list) else value

    async def _delay(self, command: GlobalCommand) -> Value:
        value = await self._value(command, "delay-time")
        if isinstance(value, str):
            value = time_from(value)
        if isinstance(value, Time):
            await self._run.around.sleep(max(0, value.milliseconds) / 1000)
            return NOTHING
        seconds = 1 if value is NOTHING else to_number(value)
        if seconds is None:
            raise RouterosError("invalid value for argument delay-time")
        await self._run.around.sleep(max(0, seconds))
        return NOTHING

    async def _execute(self, command: GlobalCommand) -> Value:
        script = command.arguments["script"]
        source = script.source if isinstance(script, Block) else await self._text(command, "script")
        jobs = self._run.around.jobs
        return await (jobs.wait(source) if "as-string" in command.flags else jobs.start(source))

    async def _time(self, command: GlobalCommand) -> Value:
        start = self._run.around.now()
        await self.inside(command.arguments["command"])
        return Time(int((self._run.around.now() - start) * 1000))


_Handler = Callable[[BlockRunner, GlobalCommand], Awaitable[Value]]
_HANDLERS: Mapping[str, _Handler] = {
    name: getattr(BlockRunner, f"_{name}")
    for name in (
        *("local", "global", "set", "put", "error", "return", "onerror", "if", "do", "while", "for", "foreach"),
        *("serialize", "delay", "execute", "time"),
    )
}


def _pairs(value: Value) -> list[tuple[Value, Value]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return [] if value is NOTHING or value is None else [(0, value)]


def _with_element(base: Value, key: Value, value: Value) -> Value:
    """A copy of an array with one entry changed or added."""
    if isinstance(base, dict):
        changed: Map = {**base, to_text(key): value}
        checked_array(list(changed.values()))
        return changed
    entries = list(base) if isinstance(base, list | tuple) else []
    position = to_number(key)
    if position is None:
        return {**{str(at): entry for at, entry in enumerate(entries)}, to_text(key): value}
    if 0 <= position < len(entries):
        entries[position] = value
    else:
        entries.append(value)
    return checked_array(entries)
