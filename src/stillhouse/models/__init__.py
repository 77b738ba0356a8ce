"""Load a Hugging Face model, run it for exactly the signals asked for, and let it write."""
