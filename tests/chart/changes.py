"""Another value for each of values.yaml, and beside which values it must make a difference."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Change:
    """``value`` instead of the default, beside the value file ``beside`` and what is ``given`` besides."""

    value: object
    beside: str = "routeros-ssh"
    given: dict[str, object] = field(default_factory=dict)


_LABELS: dict[str, object] = {"example.org/changed": "yes"}
_RESOURCES: dict[str, object] = {"requests": {"cpu": "77m"}}
_TOLERATIONS: list[dict[str, object]] = [{"key": "example.org/changed", "operator": "Exists"}]
_ENV: list[dict[str, object]] = [{"name": "CHANGED", "value": "yes"}]
_AFFINITY: dict[str, object] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
_DIGEST = f"sha256:{'9' * 64}"

_SWEEP: dict[str, object] = {"sweep": {"daemonSet": {"enabled": True}}}
_POLICY: dict[str, object] = {"networkPolicy": {"enabled": True}}
_OTHER_PORT: dict[str, object] = {"controller": {"httpPort": 9810}}
_BUDGET: dict[str, object] = {"controller": {"podDisruptionBudget": {"enabled": True}}}


def _sidecar(name: str, beside: str = "routeros-ssh") -> dict[str, Change]:
    return {
        f"sidecars.{name}.image.repository": Change("registry.example.org/changed", beside),
        f"sidecars.{name}.image.tag": Change("v0.0.1", beside),
        f"sidecars.{name}.image.digest": Change(_DIGEST, beside),
        f"sidecars.{name}.extraArgs": Change(["--changed"], beside),
        f"sidecars.{name}.resources": Change(_RESOURCES, beside),
    }


def _account(role: str) -> dict[str, Change]:
    return {
        f"{role}.serviceAccount.create": Change(False),
        f"{role}.serviceAccount.name": Change("changed"),
        f"{role}.serviceAccount.annotations": Change(_LABELS),
    }


def _monitor(name: str) -> dict[str, Change]:
    return {
        f"metrics.{name}.enabled": Change(False, "monitoring"),
        f"metrics.{name}.interval": Change("77s", "monitoring"),
        f"metrics.{name}.labels": Change(_LABELS, "monitoring"),
        f"metrics.{name}.relabelings": Change([], "monitoring"),
        f"metrics.{name}.metricRelabelings": Change([], "monitoring"),
    }


_GENERAL = {
    "nameOverride": Change("changed"),
    "fullnameOverride": Change("changed"),
    "commonLabels": Change(_LABELS),
    "imagePullSecrets": Change([{"name": "changed"}]),
    "image.repository": Change("registry.example.org/changed"),
    "image.tag": Change("changed"),
    "image.digest": Change(_DIGEST),
    "image.pullPolicy": Change("Always"),
    "driverName": Change("changed.example.org"),
    "nqnPrefix": Change("nqn.2026-01.org.example:changed:"),
    "connector": Change("nvme-cli"),
    "kubeletPath": Change("/var/lib/k0s/kubelet"),
    "stateDir": Change("/var/lib/changed"),
    "logFormat": Change("json"),
    "logLevel": Change("debug"),
    "shutdownGrace": Change(77),
    "maxVolumesPerNode": Change(77),
    "maxConnects": Change(77),
    "kubernetesApi": Change(False),
    "capacity.enabled": Change(False),
    "capacity.pollInterval": Change("77s"),
    "rbac.create": Change(False),
}

_ARRAY = {
    "array.url": Change("routeros+ssh://csi@192.0.2.77/?pool=raid10"),
    "array.several.default": Change("slow", "several-arrays"),
    "array.several.urls": Change({"third": "routeros+ssh://csi@192.0.2.77/?pool=raid10"}, "several-arrays"),
    "array.existingSecret": Change("changed"),
    "array.secretFiles": Change({"password": "changed"}, "routeros-https"),
    "array.local.hostPath": Change("/var/lib/rds-csi", "local"),
}

_SWEEPING = {
    "sweep.interval": Change(77),
    "sweep.grace": Change(77),
    "sweep.unused": Change(True),
    "sweep.daemonSet.enabled": Change(True),
    "sweep.daemonSet.dryRun": Change(True, given=_SWEEP),
    "sweep.daemonSet.resources": Change(_RESOURCES, given=_SWEEP),
}

_CONTROLLER = {
    "controller.replicas": Change(2),
    "controller.hostNetwork": Change(True, given=_OTHER_PORT),
    "controller.httpPort": Change(7777),
    "controller.extraArgs": Change(["--log-level=debug"]),
    "controller.extraEnv": Change(_ENV),
    "controller.resources": Change(_RESOURCES),
    "controller.nodeSelector": Change(_LABELS),
    "controller.affinity": Change(_AFFINITY),
    "controller.tolerations": Change(_TOLERATIONS),
    "controller.topologySpreadConstraints": Change([], "two-replicas"),
    "controller.priorityClassName": Change("changed"),
    "controller.strategy": Change({"type": "Recreate"}),
    "controller.podAnnotations": Change(_LABELS),
    "controller.podLabels": Change(_LABELS),
    "controller.podSecurityContext": Change({"runAsUser": 7777}),
    "controller.securityContext": Change({"runAsUser": 7777}),
    "controller.podDisruptionBudget.enabled": Change(True),
    "controller.podDisruptionBudget.maxUnavailable": Change(7, given=_BUDGET),
    **_account("controller"),
}

_NODE = {
    "node.registration": Change("sidecar"),
    "node.httpPort": Change(7777),
    "node.livenessProbePort": Change(7777, "sidecar-registration"),
    "node.preStopTimeout": Change(77),
    "node.removeStartupTaint": Change(False),
    "node.hostPaths.etcNvme": Change(""),
    "node.hostPaths.modules": Change(""),
    "node.hostPaths.udev": Change(""),
    "node.extraArgs": Change(["--log-level=debug"]),
    "node.extraEnv": Change(_ENV),
    "node.resources": Change(_RESOURCES),
    "node.nodeSelector": Change(_LABELS),
    "node.affinity": Change(_AFFINITY),
    "node.tolerateAllTaints": Change(False),
    "node.tolerations": Change(_TOLERATIONS, given={"node": {"tolerateAllTaints": False}}),
    "node.priorityClassName": Change("changed"),
    "node.updateStrategy": Change({"rollingUpdate": {"maxUnavailable": "77%"}}),
    "node.podAnnotations": Change(_LABELS),
    "node.podLabels": Change(_LABELS),
    **_account("node"),
}

_SIDECARS = {
    "sidecars.pullPolicy": Change("Always"),
    "sidecars.logLevel": Change(7),
    "sidecars.timeout": Change("77s"),
    "sidecars.retryIntervalMax": Change("77s"),
    "sidecars.workerThreads": Change(77),
    "sidecars.kubeApiQps": Change(77),
    "sidecars.kubeApiBurst": Change(77),
    "sidecars.leaderElection.leaseDuration": Change("77s"),
    "sidecars.leaderElection.renewDeadline": Change("77s"),
    "sidecars.leaderElection.retryPeriod": Change("77s"),
    **_sidecar("provisioner"),
    **_sidecar("attacher"),
    **_sidecar("resizer"),
    **_sidecar("snapshotter", "routeros-https"),
    **_sidecar("registrar", "sidecar-registration"),
    **_sidecar("livenessprobe", "sidecar-registration"),
}

_CLASSES = {
    "snapshots.enabled": Change(False, "local"),
    "snapshots.groups": Change(True, "local"),
    "snapshots.classes": Change([{"name": "changed"}], "local"),
    "storageClasses": Change([{"name": "changed"}]),
    "volumeAttributesClasses": Change([{"name": "changed", "parameters": {"ctrlLossTmo": "77"}}]),
}

_NETWORK = {
    "networkPolicy.enabled": Change(True),
    "networkPolicy.metricsFrom": Change([{"podSelector": {}}], given=_POLICY),
    "networkPolicy.apiPorts": Change([7777], given=_POLICY),
    "networkPolicy.arrayPorts": Change([7777], given=_POLICY),
    "networkPolicy.arrayCidrs": Change(["192.0.2.77/32"], given=_POLICY),
    "networkPolicy.extraEgress": Change([{"ports": [{"port": 7777}]}], given=_POLICY),
}

_METRICS = {
    "metrics.nodeAddress": Change("loopback", "monitoring", {"metrics": {"podMonitor": {"enabled": False}}}),
    "metrics.token.existingSecret": Change("changed"),
    "metrics.token.key": Change("changed", "monitoring"),
    "metrics.tls.existingSecret": Change("changed"),
    "metrics.tls.insecureSkipVerify": Change(True, "monitoring"),
    "metrics.tls.ca": Change({"name": "changed"}, "monitoring"),
    "metrics.tls.serverName": Change("changed", "monitoring"),
    "metrics.service.enabled": Change(True),
    "metrics.service.annotations": Change(_LABELS, "monitoring"),
    "metrics.prometheusRule.enabled": Change(True),
    "metrics.prometheusRule.labels": Change(_LABELS, "monitoring"),
    "metrics.prometheusRule.alertLabels": Change(_LABELS, "monitoring"),
    "metrics.grafanaDashboard.enabled": Change(True),
    "metrics.grafanaDashboard.labels": Change(_LABELS, "monitoring"),
    "metrics.grafanaDashboard.annotations": Change(_LABELS, "monitoring"),
    **_monitor("serviceMonitor"),
    **_monitor("podMonitor"),
}

CHANGES: dict[str, Change] = {
    **_GENERAL,
    **_ARRAY,
    **_SWEEPING,
    **_CONTROLLER,
    **_NODE,
    **_SIDECARS,
    **_CLASSES,
    **_NETWORK,
    **_METRICS,
}
