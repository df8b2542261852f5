"""This machine's GPUs: which there are, what they hold, which go together."""
