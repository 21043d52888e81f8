"""`python -m keepsight` is the `keepsight` command."""

from keepsight.cli.main import main

main()
