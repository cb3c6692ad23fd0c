"""An API server of Kubernetes with the few paths that the driver uses: real TLS on loopback, resourceVersions, paging,
refusals and faults on demand. It takes what the real one takes, and refuses what that refuses."""

import asyncio
import base64
import copy
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from rds_csi.kubernetes.access import find_access
from rds_csi.kubernetes.api import Api
from rds_csi.retry import Clock
from rds_csi.workers import Workers
from tests.support.certificates import write_certificate
from tests.support.kube_rules import Object, Refused, apply, check_event, merge, status_of

TOKEN = "token-of-the-service-account"
_ADDRESS = "127.0.0.1"
_ACCEPT_STEPS = 10
_DIRECTORY = "var/run/secrets/kubernetes.io/serviceaccount"
_COLLECTIONS = re.compile(
    r"(?P<collection>/api/v1/(?P<core>nodes|persistentvolumes)"
    r"|/api/v1/namespaces/(?P<namespace>[^/]+)/(?P<spaced>events|persistentvolumeclaims)"
    r"|/apis/storage\.k8s\.io/v1/(?P<storage>volumeattachments))(?:/(?P<name>[^/]+))?"
)


class Fault(Enum):
    """What becomes of a request instead of its answer."""

    # Done, and the connection closed without a reply.
    LOST_REPLY = auto()
    # Not done, and never answered.
    HANG = auto()
    # Not done, and the connection closed.
    CUT = auto()
    # The answer is no JSON.
    GARBAGE = auto()
    # The answer is an object without anything in it, as of something else that answers in the server's place.
    EMPTY_OBJECT = auto()


_GARBAGE: Mapping[object, bytes] = {Fault.GARBAGE: b"<html>", Fault.EMPTY_OBJECT: b"{}"}


@dataclass(frozen=True, slots=True)
class Status:
    """An error that is answered instead."""

    code: int
    message: str = "as the test wants it"
    retry_after: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as RBAC sees it, and what came with it."""

    verb: str
    resource: str
    path: str
    query: Mapping[str, str]
    token: str
    body: Any


@dataclass
class KubeApi:
    """The server. ``objects`` are by their paths; ``faults`` are used up one a request, None for none."""

    root: Path
    objects: dict[str, Object] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    faults: list[Fault | Status | None] = field(default_factory=list)
    # Called before a request is done, with its verb and resource: what happens in the meantime.
    meanwhile: Callable[[str, str], None] = lambda verb, resource: None
    # At most so many objects in a page, whatever is asked for.
    page: int = 500
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    connections: int = 0

    def __post_init__(self) -> None:
        self._version = 100
        # Lists that are too old to be gone on with: those of versions below.
        self._oldest = 0
        self._directory = self.root / _DIRECTORY
        self._directory.mkdir(parents=True)
        self._talks: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._released = asyncio.Event()
        self.write_token(TOKEN)
        self.new_certificate()

    # What a test arranges

    @property
    def environment(self) -> dict[str, str]:
        """What a pod of this cluster has in its environment."""
        return {"KUBERNETES_SERVICE_HOST": _ADDRESS, "KUBERNETES_SERVICE_PORT": str(self.port)}

    def client(self, clock: Clock | None = None) -> Api:
        """As a pod of this cluster makes it."""
        access = find_access(self.environment, str(self.root))
        assert access is not None
        return Api(access, Workers(), clock=clock)

    def write_token(self, token: str) -> None:
        """Renew the pod's token file, as the kubelet does."""
        (self._directory / "token").write_text(token)

    def write_ca(self, text: str) -> None:
        (self._directory / "ca.crt").write_text(text)

    def new_certificate(self) -> None:
        """Another certificate, of which the pod is told; for connections to come."""
        certificate, key = write_certificate(self.root, "api")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        self.write_ca(certificate.read_text())

    def forget_lists(self) -> None:
        """Every list that is being paged through is too old from now on (410)."""
        self._oldest = self._version + 1
        self._version += 1

    def put(self, path: str, value: Object) -> Object:
        """Have an object, with the metadata that the server gives."""
        self._version += 1
        metadata = value.setdefault("metadata", {})
        metadata.setdefault("name", path.rpartition("/")[2])
        metadata.setdefault("uid", f"uid-of-{metadata['name']}")
        metadata["resourceVersion"] = str(self._version)
        self.objects[path] = value
        return value

    def add_node(self, name: str, *, unschedulable: bool = False, taints: list[Object] | None = None) -> Object:
        spec: Object = {"unschedulable": True} if unschedulable else {}
        return self.put(f"/api/v1/nodes/{name}", {"spec": {**spec, **({"taints": taints} if taints else {})}})

    def add_volume(
        self, name: str, volume_id: str, *, driver: str, nqn: str = "", claim: tuple[str, str] | None = None
    ) -> Object:
        """A PersistentVolume; ``claim`` is (namespace, name) of the one that it is bound to."""
        attributes = {"nqn": nqn} if nqn else {}
        spec: Object = {"csi": {"driver": driver, "volumeHandle": volume_id, "volumeAttributes": attributes}}
        if claim is not None:
            spec["claimRef"] = {"namespace": claim[0], "name": claim[1], "uid": f"uid-of-{claim[1]}"}
        return self.put(f"/api/v1/persistentvolumes/{name}", {"spec": spec})

    def add_claim(self, namespace: str, name: str) -> Object:
        return self.put(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}", {"spec": {}})

    def attach(self, volume: str, node: str, *, driver: str, attached: bool = True, uid: str = "") -> str:
        """A VolumeAttachment; its path."""
        path = f"/apis/storage.k8s.io/v1/volumeattachments/csi-{volume}-{node}"
        self.put(
            path,
            {
                "metadata": {"uid": uid or f"uid-of-{volume}-on-{node}"},
                "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume}},
                "status": {"attached": attached},
            },
        )
        return path

    # What a test looks at

    @property
    def events(self) -> list[Object]:
        return [value for path, value in self.objects.items() if "/events/" in path]

    @property
    def used(self) -> set[tuple[str, str]]:
        """Verbs and resources that were asked for, as a Role lists them."""
        return {(item.verb, item.resource) for item in self.asked}

    @property
    def open_connections(self) -> tuple[asyncio.StreamWriter, ...]:
        return tuple(self._talks)

    def count(self, verb: str, resource: str) -> int:
        return sum((item.verb, item.resource) == (verb, resource) for item in self.asked)

    # The server

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["KubeApi"]:
        """Listen until the end of the block, always at the same port."""
        server = await asyncio.start_server(self._accept, _ADDRESS, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._released.clear()
        try:
            yield self
        finally:
            server.close()
            self._released.set()
            # What was accepted a moment ago gets its task only some steps of the loop later.
            for _ in range(_ACCEPT_STEPS):
                await asyncio.sleep(0)
            for writer in self._talks:
                writer.transport.abort()
            await asyncio.gather(*self._talks.values())
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._talks[writer] = asyncio.create_task(self._talk(reader, writer))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, with TLS as it is configured now."""
        try:
            await writer.start_tls(self._tls)
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            # The client has gone, or does not trust us.
            pass
        finally:
            del self._talks[writer]
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        fault = self.faults.pop(0) if self.faults else None
        if fault is Fault.HANG:
            await self._released.wait()
        if fault in (Fault.HANG, Fault.CUT):
            return False
        if isinstance(fault, Status):
            status, answer = fault.code, status_of(fault.code, "InternalError", fault.message)
        else:
            status, answer = self._answer(method, target, headers, body)
        if fault is Fault.LOST_REPLY:
            return False
        data = _GARBAGE[fault] if fault in _GARBAGE else json.dumps(answer).encode()
        retry = f"Retry-After: {fault.retry_after}\r\n" if isinstance(fault, Status) and fault.retry_after else ""
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{retry}"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
        )
        writer.write(data)
        await writer.drain()
        return True

    def _answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Object]:
        parts = urlsplit(target)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            match = _COLLECTIONS.fullmatch(parts.path)
            if match is None:
                raise Refused(404, "the server could not find the requested resource")
            name = unquote(match["name"] or "")
            resource = match["core"] or match["spaced"] or match["storage"]
            verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch"}[method]
            content: Any = json.loads(body) if body else None
            token = headers.get("authorization", "").removeprefix("Bearer ")
            self.asked.append(Asked(verb, resource, path, query, token, content))
            self._check(verb, resource, token)
            self.meanwhile(verb, resource)
            if verb == "list":
                return 200, self._list(unquote(match["collection"]), query)
            if verb == "create":
                return 201, self._create(path, resource, unquote(match["namespace"] or ""), content)
            if path not in self.objects:
                raise Refused(404, f'{resource} "{name}" not found')
            if verb == "get":
                return 200, self.objects[path]
            return 200, self._patch(path, headers["content-type"], content)
        except Refused as error:
            return error.code, status_of(error.code, error.reason, str(error))

    def _check(self, verb: str, resource: str, token: str) -> None:
        if token not in self.tokens:
            raise Refused(401, "Unauthorized")
        if (verb, resource) in self.forbidden:
            raise Refused(403, f'User "the-driver" cannot {verb} resource "{resource}"')

    def _list(self, collection: str, query: Mapping[str, str]) -> Object:
        found = [value for path, value in sorted(self.objects.items()) if path.rpartition("/")[0] == collection]
        version, start = self._version, 0
        if "continue" in query:
            version, start = json.loads(base64.b64decode(query["continue"]))
            if version < self._oldest:
                raise Refused(410, "The provided continue parameter is too old to display a consistent list result")
        end = start + min(int(query.get("limit", self.page)), self.page)
        metadata: Object = {"resourceVersion": str(version)}
        if end < len(found):
            # With what base64 has and a query must escape.
            metadata["continue"] = base64.b64encode(json.dumps([version, end]).encode()).decode()
        return {"kind": "List", "metadata": metadata, "items": found[start:end]}

    def _create(self, path: str, resource: str, namespace: str, value: Object) -> Object:
        if resource == "events":
            check_event(value, namespace)
        created = f"{path}/{value['metadata']['name']}"
        if created in self.objects:
            raise Refused(409, f"{resource} {value['metadata']['name']} already exists", "AlreadyExists")
        return self.put(created, value)

    def _patch(self, path: str, content_type: str, patch: Any) -> Object:
        value = copy.deepcopy(self.objects[path])
        if content_type == "application/merge-patch+json":
            merge(value, patch)
        elif content_type == "application/json-patch+json":
            for step in patch:
                apply(value, step)
        else:
            raise Refused(415, f"the body of the request was in an unknown format: {content_type}")
        return self.put(path, value)
