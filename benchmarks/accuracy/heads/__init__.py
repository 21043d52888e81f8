"""Closed-form heads on frozen features: each is solved in float64 from sums over the images, and keeps no image."""
