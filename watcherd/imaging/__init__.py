"""Pixels, in worker processes of their own: scans are decoded, results are drawn."""
