"""What the workflow does and what that costs: read off Snakemake's own jobs, counted against closed forms (about 25 s)."""
