"""The questions, one module each: what is run, and the figures that follow from it."""
