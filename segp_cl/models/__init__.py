"""Base models behind one interface, and the adapters that are trained in them. Begin with `load.load_backbone`."""
