"""Training: patches, objectives, the training loop, saved states."""
