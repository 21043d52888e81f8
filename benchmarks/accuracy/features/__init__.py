"""The same heads on features that are given in a file, without a model."""
