"""The store: records of runs and the journal of a study, append-only and crash-safe."""
