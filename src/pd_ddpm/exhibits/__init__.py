"""Tables and figures of the paper, and the verdicts on its claims."""
