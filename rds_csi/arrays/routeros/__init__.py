"""A MikroTik ROSE Data Server (RouterOS 7) as an array, over SSH or REST."""
