"""`python -m keepsight` is the `keepsight` command."""

from keepsight.cli import main

main()
