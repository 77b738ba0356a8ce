"""Students: from chosen layers of the teacher, from a configuration at random, or any checkpoint."""
