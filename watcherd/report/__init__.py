"""A period of the history as one HTML page."""
