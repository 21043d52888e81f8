"""What the benchmarks share: records, machines, pages, plots, options, and random models to measure with."""
