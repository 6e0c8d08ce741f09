"""The processes of one run, and the optimizer whose work they share."""
