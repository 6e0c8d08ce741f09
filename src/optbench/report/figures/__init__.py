"""The figures of a report, one file per subject."""
