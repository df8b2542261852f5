"""Models. The modules at this level are what a segmenter is written against (docs/segmenters.md)."""
