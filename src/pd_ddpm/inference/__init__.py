"""Inference: segmenters, ensembles, cases, stored predictions."""
