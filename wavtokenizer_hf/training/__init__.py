"""Training: what the models for inference do without."""
