"""NIfTI images: reading, writing, geometry."""
