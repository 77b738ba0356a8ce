"""The values and gradients of the objectives with less memory and time. Each has its slow twin in `objectives/`."""
