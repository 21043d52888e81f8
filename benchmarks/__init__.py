"""What the method achieves and what it costs: measured, recorded, plotted."""
