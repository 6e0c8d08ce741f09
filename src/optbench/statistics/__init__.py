"""Noise, curves, laws of scale and speed-ups: arrays in, numbers out."""
