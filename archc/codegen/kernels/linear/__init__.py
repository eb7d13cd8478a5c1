"""Linear maps of few rows, and the loss over those of many."""
