"""Decodes untrusted bytes to pixels, and streams labelled images from files. Begin with `image_sets`."""
