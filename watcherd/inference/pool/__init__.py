"""Replicas as the main process sees them: `interface` is what others know of it."""
