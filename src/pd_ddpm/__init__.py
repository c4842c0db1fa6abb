"""Diffusion-based medical image segmentation, after PD-DDPM (Guo et al. 2022). Imports nothing by itself."""
