"""Metrics, scores and statistics."""
