"""The HTTP server. Begin with `main.create_app`."""
