"""Wire formats of external protocols."""
