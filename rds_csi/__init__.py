"""rds-csi: a Kubernetes CSI driver for NVMe/TCP volumes."""

__version__ = "0.1.0"
