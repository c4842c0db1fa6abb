"""Subcommands of `pd-ddpm`, one module each."""
