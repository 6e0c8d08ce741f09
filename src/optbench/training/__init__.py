"""One training run: model, loss, loop, and the record that it leaves."""
