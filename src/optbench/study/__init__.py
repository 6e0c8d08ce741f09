"""A study: its file, its search through the three phases, and its runs."""
