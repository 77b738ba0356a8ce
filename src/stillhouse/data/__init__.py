"""Rows become examples, examples become packed rows, and every token knows how much it counts."""
