"""Training: recipes and parallel text in, a checkpoint out."""
