"""What the server's way of running a pass on a CPU saves beside plain PyTorch."""
