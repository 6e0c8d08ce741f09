"""Which optimizer, which hyperparameters, and how sure: numbers only, no sentences."""
