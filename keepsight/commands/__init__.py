"""The commands of the `keepsight` command line, a module for each group."""
