"""Preprocessing: one grid per case, a brain mask, normalised intensities."""
