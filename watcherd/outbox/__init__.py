"""Results in the outbox: staged, synced, renamed; and whose the outbox is."""
