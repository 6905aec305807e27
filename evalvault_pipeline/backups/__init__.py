"""Keeping a copy of everything that cannot be computed again, and getting it back."""
