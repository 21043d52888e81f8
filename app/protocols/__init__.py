"""Wire formats of other people's protocols."""
