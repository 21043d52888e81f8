"""Plots as PNG bytes, and their colours. Agg only, no pyplot: nothing touches matplotlib's global figures."""

from __future__ import annotations

import io
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI: Final = 110

# Okabe and Ito's palette, told apart by the colour-blind; the dark blue is kept for what is ours
OURS: Final = "#08306B"
OURS_LIGHTER: Final = "#4292C6"
VERMILION: Final = "#D55E00"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
PINK: Final = "#CC79A7"
BLUE: Final = "#0072B2"
SKY: Final = "#56B4E9"
BLACK: Final = "#000000"
GREY: Final = "#8c8c8c"
OTHER: Final = "#666666"
"""Of a side that has no colour of its own."""


def png(figure: Figure) -> bytes:
    """The figure at `DPI`; the same bytes every time."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
