"""Training objectives: the loss of a batch and the estimates that validation scores."""
