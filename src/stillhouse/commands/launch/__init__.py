"""`stillhouse distill RECIPE --launch N`: the training of each arm in N processes that share every step."""
