"""The node's path over NVMe/TCP, and the look at many sessions, measured in a throw-away machine of their own."""
