"""Engines run the image towers of versions: PyTorch everywhere, OpenVINO on CPUs where it is installed.

`choose.choose_engine` decides which; `interface.Engine` is what one can do.
"""
