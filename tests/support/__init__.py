"""What several test lanes share."""
