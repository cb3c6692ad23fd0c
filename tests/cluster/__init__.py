"""A real Kubernetes on this machine, made of its own programs, for tests of the chart, the image and the driver."""
