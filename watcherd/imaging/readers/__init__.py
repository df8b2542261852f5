"""A reader for each family of picture formats: `scan.Scan` is what all of them offer."""
