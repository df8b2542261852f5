"""What a file is by its first bytes, and whether it is whole. No pixels are decoded here."""
