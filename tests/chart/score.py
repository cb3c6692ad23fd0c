"""What kube-score finds in the chart and is meant so, by name, each with the reason."""

# Kind, name without the release's, and kube-score's check → why it is so.
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("DaemonSet", "node", "container-security-context-privileged"): (
        "It makes mounts that the host sees, uses its block devices and loads modules; the kernel gives that to "
        "privileged containers only."
    ),
    ("DaemonSet", "node", "container-security-context-user-group-id"): "Mounts and NVMe sessions are root's.",
    ("DaemonSet", "node", "container-resources"): (
        "No limits: mkfs and fsck run in it. One that the kernel kills in the middle leaves a volume half made."
    ),
    ("DaemonSet", "node", "container-ephemeral-storage-request-and-limit"): (
        "Its root is read-only; its only own storage is an emptyDir with a size limit."
    ),
    ("DaemonSet", "node", "container-image-pull-policy"): (
        "Tags are not moved; a registry that is away must not keep a node from its volumes."
    ),
    ("DaemonSet", "node", "pod-networkpolicy"): "It is in the host's network, which no NetworkPolicy has a hold on.",
    ("DaemonSet", "sweep", "container-security-context-privileged"): (
        "It writes to sysfs, and looks at every process of the host before."
    ),
    ("DaemonSet", "sweep", "container-security-context-user-group-id"): "sysfs can be written by root only.",
    ("DaemonSet", "sweep", "container-resources"): "No limits, as for the node: its values may set them.",
    ("DaemonSet", "sweep", "container-ephemeral-storage-request-and-limit"): (
        "Its root is read-only; its only own storage is an emptyDir with a size limit."
    ),
    ("DaemonSet", "sweep", "container-image-pull-policy"): "As for the node.",
    ("DaemonSet", "sweep", "pod-networkpolicy"): "It serves nothing, and asks the Kubernetes API only.",
    ("Deployment", "controller", "container-resources"): (
        "No limits: how much is needed depends on the number of volumes. The value file hardened sets one."
    ),
    ("Deployment", "controller", "container-ephemeral-storage-request-and-limit"): (
        "Its root is read-only; its only own storage are emptyDirs with size limits."
    ),
    ("Deployment", "controller", "container-image-pull-policy"): "As for the node.",
    ("Deployment", "controller", "pod-networkpolicy"): (
        "Off until an administrator names the ports of API and array: networkPolicy.enabled."
    ),
    ("Deployment", "controller", "container-security-context-user-group-id"): (
        "Only with a local array: its image files are root's."
    ),
    ("Deployment", "controller", "deployment-replicas"): "One is enough: a second shortens the pause when a node dies.",
}
