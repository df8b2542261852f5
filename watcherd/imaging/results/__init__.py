"""A module for each kind of result."""
