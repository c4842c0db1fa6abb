"""The claims of the PD-DDPM paper, tested on our own scores."""
