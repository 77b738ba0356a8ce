"""Whole small language models for one narrow world, from nothing but a teacher: recipes of kind stories."""
