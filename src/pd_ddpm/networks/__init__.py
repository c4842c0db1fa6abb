"""Networks: images in, images out. They know nothing of diffusion, of the configuration or of files."""
