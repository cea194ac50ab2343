"""Measures of reconstructed audio, and the pages that show them."""
