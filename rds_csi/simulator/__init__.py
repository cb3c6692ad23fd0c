"""A RouterOS look-alike for tests, demonstrations and the CI of others: a device with a console and two servers."""
