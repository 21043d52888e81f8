from __future__ import annotations

import pytest
import torch

from segp_cl.pixels import as_unit_pixels


def test_bytes_become_unit_pixels_and_floats_pass() -> None:
    eight = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert as_unit_pixels(eight).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert torch.equal(as_unit_pixels(as_unit_pixels(eight)), as_unit_pixels(eight))
