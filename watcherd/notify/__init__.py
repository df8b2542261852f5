"""Others are told: systemd, Prometheus, and hooks."""
