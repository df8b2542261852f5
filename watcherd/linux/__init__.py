"""What only Linux offers and the standard library lacks."""
