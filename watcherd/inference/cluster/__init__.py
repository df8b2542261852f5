"""Replicas on other machines: what the main process asks, the bridge that talks to Ray, and what runs on the nodes."""
