"""The work of a run and its cost, before it starts."""
