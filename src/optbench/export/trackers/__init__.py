"""Sinks: TensorBoard, Weights & Biases and trackio show the finished runs of a study, as extras.

The store is the record of a study; a sink is a copy for looking at, chosen in the study file. Each
lives in a process of its own that may hang, fail or die without a run noticing::

    sinks.log              what went wrong with a sink
    sinks/<name>/          what the sink writes itself
    sinks/<name>/written.txt   ids of the runs that it has, one per line

A sink is given what it does not have yet: what was in the store before it was chosen, and what it
missed in an earlier session.
"""
