"""Downstream tasks: scores of a trained run through EleutherAI's lm-evaluation-harness."""
