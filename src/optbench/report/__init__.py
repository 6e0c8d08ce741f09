"""Numbers of a study → tables, figures and one self-contained HTML file."""
