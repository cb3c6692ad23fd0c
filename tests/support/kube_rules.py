"""What an API server of Kubernetes checks, and how it changes objects: for the one of the tests."""

import re
from typing import Any

# JSON as json.loads gives it.
Object = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 410: "Expired", 422: "Invalid"}


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason or _REASONS.get(code, "InternalError")


def status_of(code: int, reason: str, message: str) -> Object:
    """The Status that is answered."""
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def merge(value: Object, patch: Object) -> None:
    """RFC 7386."""
    for key, item in patch.items():
        if item is None:
            value.pop(key, None)
        elif isinstance(item, dict):
            merge(value.setdefault(key, {}), item)
        else:
            value[key] = item


def apply(value: Object, step: Object) -> None:
    """RFC 6902, "test" and "replace"; what cannot be applied is 422, as in the real server."""
    *parents, last = step["path"].strip("/").split("/")
    for key in parents:
        value = value.get(key, {})
    if step["op"] == "test" and value.get(last) == step["value"]:
        return
    if step["op"] == "replace" and last in value:
        value[last] = step["value"]
        return
    raise Refused(422, f"the server rejected our request due to an error in our request: {step['op']} {step['path']}")


def check_event(event: Object, namespace: str) -> None:
    """What the API server checks of core/v1 Events without an eventTime (apis/core/validation/events.go)."""
    involved = event["involvedObject"]
    problems = [
        text
        for text, wrong in {
            "metadata.namespace: does not match the request": event["metadata"]["namespace"] != namespace,
            "metadata.name: not a DNS subdomain": not _is_subdomain(event["metadata"]["name"]),
            "involvedObject.namespace: does not match event.namespace": involved.get("namespace", "default")
            != namespace,
            "reportingComponent: not a qualified name": not _is_subdomain(event["reportingComponent"]),
            "type: not Normal or Warning": event["type"] not in ("Normal", "Warning"),
            "message: too long": len(event["message"].encode()) > 1024,
            "count: not positive": event["count"] < 1,
        }.items()
        if wrong
    ]
    if problems:
        raise Refused(422, f"Event is invalid: {'; '.join(problems)}")


def _is_subdomain(name: str) -> bool:
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None
