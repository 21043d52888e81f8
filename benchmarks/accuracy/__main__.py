"""`python -m benchmarks.accuracy`, which `keepsight bench` starts."""

from __future__ import annotations

from segp_cl.runtime.process import set_up_process


def main() -> None:
    """Run the command line in a process that is set up as an update's."""
    set_up_process()
    # imported late: PyTorch must be loaded after that
    from benchmarks.accuracy import cli

    cli.main()


if __name__ == "__main__":
    main()
