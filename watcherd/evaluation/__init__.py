"""How good masks are, compared with masks that somebody drew."""
