"""The inside of a replica's process: load, probe, batch, measure memory."""
