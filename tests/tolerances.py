"""How far apart numbers may lie that are the same in exact arithmetic.

Measured here, then multiplied by about ten: another processor has other kernels, which add in another order.
"""

from __future__ import annotations

FLOAT32_REORDERED = 1e-4
"""Features, scores and gradients of size 1, computed twice in float32 by another kernel, batch, layout or order.

The largest difference measured is 1e-5: a tower of convolutions with adapters merged and unmerged.
"""

FLOAT64_REORDERED = 1e-10
"""The same in float64, where differences of 1e-15 are measured."""

SIX_DECIMALS = 1e-6
"""Figures of float32 that were worked out by hand and written with six decimals: half of the last one, and rounding."""
