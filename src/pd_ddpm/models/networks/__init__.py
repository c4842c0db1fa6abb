"""Network architectures. They know nothing of diffusion, of the configuration or of files."""
