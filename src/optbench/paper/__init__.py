"""The published results read again: their analysis, tables, figures and page."""
