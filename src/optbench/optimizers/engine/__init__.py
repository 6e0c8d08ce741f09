"""How parameters of one shape are stepped together, compiled, checked and loaded."""
