"""The diffusion process: mask coding, noise, schedule, denoiser, start, sampler."""
