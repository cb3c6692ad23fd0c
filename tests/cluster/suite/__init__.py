"""Kubernetes' own test suite for storage drivers, run against this driver in a cluster of the cluster lane."""
