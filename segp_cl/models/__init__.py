"""Base models behind one interface, and their trained adapters. Begin with `load.load_backbone`."""
