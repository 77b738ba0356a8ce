"""`stillhouse plan`: what a run will take, before it begins, and by how much that was wrong, when it has ended."""
