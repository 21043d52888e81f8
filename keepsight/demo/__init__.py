"""The tour that `keepsight demo` takes. Begin with `tour.run_demo`."""
