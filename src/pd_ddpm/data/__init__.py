"""From scans on disk to arrays on the working grid: download, cases, checks, preparation, splits."""
