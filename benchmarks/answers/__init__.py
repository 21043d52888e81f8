"""What the answers are worth: calibration, unknowns, few images, untaught words, and how soon a task is served."""
