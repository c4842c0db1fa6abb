"""Networks, their construction from the configuration, and their weights."""
