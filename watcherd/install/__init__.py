"""The service under systemd: put there, and taken away."""
