"""watcherd: scans from a folder, masks into another, and the fate of every job in SQLite."""
