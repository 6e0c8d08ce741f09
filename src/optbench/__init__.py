"""optbench: how much faster an optimizer really is at pretraining a language model."""

__version__ = "0.1.0"
