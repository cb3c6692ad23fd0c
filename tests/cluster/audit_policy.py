"""What the API server writes into its audit log (Kubernetes docs, "Auditing"; audit.k8s.io/v1)."""

import json
from pathlib import Path

_ATTACHMENTS = {"group": "storage.k8s.io", "resources": ["volumeattachments", "volumeattachments/status"]}
_WRITES = ["create", "update", "patch", "delete"]


def write_policy(path: Path) -> None:
    """Every request of a ServiceAccount outside of kube-system, and the objects themselves when a VolumeAttachment is
    written by anybody. The first rule that fits decides."""
    rules = [
        {"level": "RequestResponse", "resources": [_ATTACHMENTS], "verbs": _WRITES},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    path.write_text(json.dumps(policy))
