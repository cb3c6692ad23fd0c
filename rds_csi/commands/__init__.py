"""What a person starts that is not a server: the demo, the status."""
