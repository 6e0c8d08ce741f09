"""Checkpoints: a run between two steps, written so that it goes on bit for bit, or refused by name.

::

    loop_state, random_state   what the loop and the generators know between two steps
    plain_state                nested state as JSON with its tensors set aside
    training_state             all of a run as named tensors and JSON, and back
    state_checks               what a checkpoint must hold to be taken up by a run
    history                    what the earlier parts of a run leave to its later ones
    manifest, checkpoint       a folder on a disk or at a URL: complete, or refused
    writer                     writes in the background, one at a time
    keeper                     when one is kept, and from which a run goes on
    root                       where the runs of a store keep theirs, and until when
"""
