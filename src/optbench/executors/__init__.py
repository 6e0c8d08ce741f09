"""Executors: jobs in this process, in worker processes, or on the machines of a Ray cluster."""
