"""The `keepsight` command. Begin with `main.main`."""
