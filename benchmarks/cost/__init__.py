"""What an update costs: a step against naive LoRA's, DPGD's share, and how time and memory grow. Random pictures."""
