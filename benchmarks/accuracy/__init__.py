"""Continual-learning benchmarks: data sets in, rows of methods side by side, a record, a table and plots out."""
