"""What leaves a store: Hugging Face folders, scores on downstream tasks, and trackers."""
