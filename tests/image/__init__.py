"""The image lane: the container image is built from nothing, looked through, and run in both roles.

``python -m tests.image`` builds it and prints what it is; pytest on this directory tests it. No registry and no
container engine is needed: buildah makes it, runc runs it.
"""
