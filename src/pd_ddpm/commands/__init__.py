"""The subcommands of `pd-ddpm`: one module each with its help, its options and its calls."""
