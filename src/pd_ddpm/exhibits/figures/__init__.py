"""Figures: each module computes the numbers of one figure and draws them."""
