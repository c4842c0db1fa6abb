"""The configuration: its keys, what they mean, how entries are resolved, and what is wrong with them. Never imports torch."""
