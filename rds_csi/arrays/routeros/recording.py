"""What is said to a device and what it answers, kept as a capture: for the simulator, and to see what a device does."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rds_csi.arrays.routeros.client import Client, Console, Reply, Session
from rds_csi.arrays.routeros.options import RouterosOptions, SshOptions
from rds_csi.arrays.routeros.records import DeviceFacts
from rds_csi.arrays.routeros.ssh_client import ANSWER_LIMIT, COMMAND_TIMEOUT, SshClient
from rds_csi.errors import DriverError
from rds_csi.model.volumes import Finding
from rds_csi.workers import Workers

FORMAT = "rds-csi-capture/1"

# Properties of disks whose value is a secret, or tells which device it is; as JSON, and as RouterOS prints them.
_HIDDEN = r"[a-z-]*(?:password|secret|key|serial)[a-z-]*"
_JSON_VALUE = re.compile(rf'("{_HIDDEN}"\s*:\s*)(?:"(?:[^"\\]|\\.)*"|[^,}}\]\s]+)')
_PRINTED_VALUE = re.compile(rf'(?<![\w-])({_HIDDEN}=)(?:"(?:[^"\\]|\\.)*"|[^\s;"]+)')


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exec or request: within which step, what was sent, what came back or went wrong, and how long it took."""

    step: str
    request: str
    reply: str
    error: str
    seconds: float


class Recorder:
    """Keeps exchanges. ``step`` is what the next ones are for."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.step = ""
        self.exchanges: list[Exchange] = []
        self._now = now

    def begin(self) -> float:
        """The moment at which something is sent."""
        return self._now()

    def end(self, began: float, request: str, reply: str, error: str = "") -> None:
        """Keep one exchange, without what must not be kept."""
        seconds = round(self._now() - began, 4)
        self.exchanges.append(Exchange(self.step, without_secrets(request), without_secrets(reply), error, seconds))


def without_secrets(text: str) -> str:
    """``text`` with ``***`` for the value of every property that is a secret or a serial number."""
    return _PRINTED_VALUE.sub(r"\1***", _JSON_VALUE.sub(r'\1"***"', text))


class RecordedConsole:
    """A console whose execs are kept."""

    def __init__(self, console: Console, recorder: Recorder) -> None:
        self._console = console
        self._recorder = recorder

    async def run(
        self,
        script: str,
        *,
        timeout: float = COMMAND_TIMEOUT,
        output_limit: int = ANSWER_LIMIT,
        whole: bool = False,
    ) -> str:
        began = self._recorder.begin()
        try:
            reply = await self._console.run(script, timeout=timeout, output_limit=output_limit, whole=whole)
        except DriverError as error:
            self._recorder.end(began, script, "", f"{type(error).__name__}: {error.message}")
            raise
        self._recorder.end(began, script, reply)
        return reply

    async def close(self) -> None:
        await self._console.close()


class RecordedSession:
    """A REST session whose requests are kept; their headers, which hold the password, never come here."""

    def __init__(self, session: Session, recorder: Recorder) -> None:
        self._session = session
        self._recorder = recorder

    async def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        began = self._recorder.begin()
        request = f"{method} {path}" + (f" {json.dumps(body)}" if body is not None else "")
        try:
            reply = await self._session.request(method, path, body)
        except DriverError as error:
            self._recorder.end(began, request, "", f"{type(error).__name__}: {error.message}")
            raise
        self._recorder.end(began, request, f"{reply.status} {json.dumps(reply.json)}", reply.refusal)
        return reply

    async def close(self) -> None:
        await self._session.close()


def open_recorded(options: RouterosOptions, recorder: Recorder, workers: Workers) -> Client:
    """A client for the URL's transport that keeps what is said; the libraries are loaded only here."""
    if isinstance(options.transport, SshOptions):
        from rds_csi.arrays.routeros.ssh_console import SshConsole  # noqa: PLC0415

        console = SshConsole(options.transport, workers=workers)
        return SshClient(RecordedConsole(console, recorder), user=options.transport.user)
    from rds_csi.arrays.routeros.rest_client import RestClient  # noqa: PLC0415
    from rds_csi.arrays.routeros.rest_session import RestSession  # noqa: PLC0415

    session = RestSession(options.transport, workers=workers)
    return RestClient(RecordedSession(session, recorder), user=options.transport.user)


def _today() -> datetime:
    return datetime.now(UTC)


def capture_text(
    options: RouterosOptions,
    facts: DeviceFacts | None,
    answers: Sequence[Finding],
    exchanges: Sequence[Exchange],
    today: Callable[[], datetime] = _today,
) -> str:
    """The capture as JSON, with placeholders for the device's addresses and the users' names."""
    hide = _hiding(options, facts)
    device = {"version": facts.version.text, "board": facts.board, "architecture": facts.architecture} if facts else {}
    document = {
        "format": FORMAT,
        "taken": today().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "transport": "ssh" if isinstance(options.transport, SshOptions) else "rest",
        "device": device,
        "answers": [{"question": a.subject, "well": a.ok, "answer": hide(a.message)} for a in answers],
        "exchanges": [
            {
                **asdict(exchange),
                "request": hide(exchange.request),
                "reply": hide(exchange.reply),
                "error": hide(exchange.error),
            }
            for exchange in exchanges
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _hiding(options: RouterosOptions, facts: DeviceFacts | None) -> Callable[[str], str]:
    """What puts ``HOST`` and ``USER`` in the place of the device's addresses and of the names of the driver's users."""
    names = dict.fromkeys((options.transport.host, *options.nvme_addresses), "HOST")
    for user in (options.transport.user, facts.user if facts else ""):
        names.setdefault(user, "USER")
    names.pop("", None)
    if not names:
        return lambda text: text
    # Whole words only: a user "csi" is not the csi in rds-csi.
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w/-]|\.\w)")
    return lambda text: pattern.sub(lambda found: names[found[0]], text)
