"""Wrong values, and what Helm must say of each: it names the value, so that a person finds it."""

# What is given → words that must be in the message. Refused by values.schema.json.
BY_SCHEMA: list[tuple[dict[str, object], tuple[str, ...]]] = [
    ({"contoller": {"replicas": 2}}, ("contoller", "not allowed")),
    ({"controller": {"replica": 2}}, ("/controller", "replica", "not allowed")),
    ({"controller": {"replicas": "two"}}, ("/controller/replicas", "want integer")),
    ({"controller": {"replicas": 2.5}}, ("/controller/replicas", "want integer")),
    ({"controller": {"httpPort": 70000}}, ("/controller/httpPort", "maximum")),
    ({"controller": {"extraArgs": ["log-level=debug"]}}, ("/controller/extraArgs/0", "'^-'")),
    ({"controller": {"resources": {"limit": {"memory": "1Gi"}}}}, ("/controller/resources", "limit", "not allowed")),
    ({"controller": {"tolerations": [{"efect": "NoSchedule"}]}}, ("/controller/tolerations/0", "efect")),
    ({"image": {"pullPolicy": "Sometimes"}}, ("/image/pullPolicy", "'IfNotPresent'")),
    ({"image": {"digest": "0123"}}, ("/image/digest", "sha256")),
    ({"image": {"repository": "registry.example.org/rds-csi@sha256:00"}}, ("/image/repository",)),
    ({"image": {"repository": "registry.example.org/rds-csi:0.1.0"}}, ("/image/repository",)),
    ({"sidecars": {"resizer": {"image": {"repository": "csi-resizer:v2"}}}}, ("/sidecars/resizer/image/repository",)),
    ({"driverName": "RDS driver"}, ("/driverName",)),
    ({"nqnPrefix": "prod:"}, ("/nqnPrefix", "nqn")),
    ({"logLevel": "verbose"}, ("/logLevel", "'debug'")),
    ({"kubeletPath": "var/lib/kubelet"}, ("/kubeletPath",)),
    ({"kubeletPath": "/var/lib/kubelet/"}, ("/kubeletPath",)),
    ({"shutdownGrace": -1}, ("/shutdownGrace", "minimum")),
    ({"array": {"ulr": "local:///dir"}}, ("/array", "ulr", "not allowed")),
    ({"array": {"url": "192.0.2.1"}}, ("/array/url", "://")),
    ({"array": {"several": {"urls": {"Fast": "routeros+ssh://csi@192.0.2.1/"}}}}, ("/array/several/urls", "Fast")),
    ({"array": {"secretFiles": {"a/b": "text"}}}, ("/array/secretFiles", "a/b")),
    ({"node": {"registration": "both"}}, ("/node/registration", "'builtin'")),
    ({"node": {"hostPaths": {"etcNvme": "etc/nvme"}}}, ("/node/hostPaths/etcNvme",)),
    ({"node": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}}, ("/node/updateStrategy", "maxSurge")),
    ({"sidecars": {"timeout": 60}}, ("/sidecars/timeout", "want string")),
    ({"sidecars": {"provisioner": {"image": {"tag": ""}}}}, ("/sidecars/provisioner/image/tag",)),
    ({"sidecars": {"provisioner": {"args": ["--v=5"]}}}, ("/sidecars/provisioner", "args", "not allowed")),
    ({"storageClasses": [{"fsType": "xfs"}]}, ("/storageClasses/0", "name")),
    ({"storageClasses": [{"name": "a", "fstype": "xfs"}]}, ("/storageClasses/0", "fstype", "not allowed")),
    ({"storageClasses": [{"name": "a", "fsType": "zfs"}]}, ("/storageClasses/0/fsType", "'ext4'")),
    (
        {"storageClasses": [{"name": "a", "parameters": {"ctrlLossTmo": 600}}]},
        ("/storageClasses/0/parameters/ctrlLossTmo", "want string"),
    ),
    ({"snapshots": {"classes": [{"name": "a", "deletionPolicy": "Keep"}]}}, ("deletionPolicy", "'Retain'")),
    ({"volumeAttributesClasses": [{"name": "a"}]}, ("/volumeAttributesClasses/0", "parameters")),
    ({"metrics": {"nodeAddress": "everywhere"}}, ("/metrics/nodeAddress", "'loopback'")),
    ({"metrics": {"tls": {"ca": {"name": "a"}}}}, ("/metrics/tls/ca", "key")),
    ({"networkPolicy": {"arrayCidrs": ["192.0.2.1"]}}, ("/networkPolicy/arrayCidrs/0",)),
]

_SSH = "routeros+ssh://csi@192.0.2.1/?pool=raid10&key-file=/etc/rds-csi/key"

# The same for what is well by itself, but not together. Refused by the templates.
TOGETHER: list[tuple[dict[str, object], tuple[str, ...]]] = [
    ({"image": {"repository": ""}}, ("image.repository is needed", "Containerfile")),
    (
        {"array": {"url": _SSH, "several": {"urls": {"a": "routeros+ssh://csi@192.0.2.2/"}}}},
        ("array.url and array.several.urls",),
    ),
    (
        {"array": {"existingSecret": "a", "secretFiles": {"key": "b"}}},
        ("array.existingSecret and array.secretFiles",),
    ),
    (
        {"array": {"several": {"default": "fsat", "urls": {"fast": _SSH}}}},
        ("array.several.default", "fsat", "array.several.urls"),
    ),
    (
        {"array": {"several": {"urls": {"fast": _SSH, "slow": "routeros+ssh://csi@192.0.2.2/"}}}},
        ("array.several.urls", "give array.several.default"),
    ),
    ({"array": {"several": {"urls": {"a": _SSH, "b": "local:///b"}}}}, ("array.several.urls.b",)),
    ({"array": {"url": "routeros+https://csi:secret@192.0.2.1/"}}, ("password", "array.existingSecret")),
    ({"array": {"url": f"{_SSH}&accept-first-host-key=yes"}}, ("accept-first-host-key", "ssh-keyscan")),
    ({"array": {"url": "local:///images"}}, ("array.local.hostPath",)),
    ({"array": {"url": "local:///images", "local": {"hostPath": "/image"}}}, ("/images/", "array.local.hostPath")),
    (
        {"array": {"url": "local:///images", "local": {"hostPath": "/images"}}, "controller": {"replicas": 2}},
        ("controller.replicas", "local array"),
    ),
    ({"metrics": {"nodeAddress": "node"}}, ("metrics.nodeAddress", "metrics.token.existingSecret")),
    ({"metrics": {"podMonitor": {"enabled": True}}}, ("metrics.podMonitor.enabled", "metrics.nodeAddress")),
    ({"metrics": {"serviceMonitor": {"enabled": True}}}, ("metrics.serviceMonitor.enabled", "metrics.service.enabled")),
    (
        {"metrics": {"service": {"enabled": True}}, "controller": {"hostNetwork": True}},
        ("metrics.service.enabled", "controller.hostNetwork"),
    ),
    ({"controller": {"hostNetwork": True}}, ("controller.hostNetwork", "port 9809", "controller.httpPort")),
    (
        {"node": {"registration": "sidecar", "livenessProbePort": 9809}},
        ("node.livenessProbePort", "node.httpPort"),
    ),
    (
        {"sweep": {"interval": 0, "daemonSet": {"enabled": True}}},
        ("sweep.daemonSet.enabled", "sweep.interval"),
    ),
    ({"connector": "loop", "sweep": {"daemonSet": {"enabled": True}}}, ("sweep.daemonSet.enabled", "loop")),
    (
        {"storageClasses": [{"name": "a", "parameters": {"csi.storage.k8s.io/fstype": "xfs"}}]},
        ("storageClasses: a", "csi.storage.k8s.io/fstype", "fsType"),
    ),
    (
        {"storageClasses": [{"name": "a", "pool": "fast", "parameters": {"pool": "slow"}}]},
        ("storageClasses: a", "pool twice"),
    ),
    ({"snapshots": {"groups": True}}, ("snapshots.groups", "snapshots.enabled")),
    ({"kubeletPath": f"/{'k' * 90}"}, ("kubeletPath", "107 bytes")),
]
