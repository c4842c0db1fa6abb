"""Trained methods outside the workflow: bundles, prediction of single scans, export formats."""
