"""How much of a GPU's speed an update keeps."""
