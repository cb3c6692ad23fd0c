"""The Kubernetes cluster around the driver: events, attachments, the start-up taint. Nothing depends on it."""
