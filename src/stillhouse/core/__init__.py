"""What is said between the parts: signals, batches, protocols, recipes, errors and the run folder."""
