"""From the queue to results with promised names: claim, decode, segment, draw, promise."""
