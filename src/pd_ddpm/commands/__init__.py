"""The subcommands of `pd-ddpm`, a module each: what its help says, its options, and the calls that it is made of."""
