"""Retrievers: a recipe of kind retrieval, and its stages."""
