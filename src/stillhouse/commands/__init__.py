"""Composition roots: read the recipe, build the parts, pass them in."""
