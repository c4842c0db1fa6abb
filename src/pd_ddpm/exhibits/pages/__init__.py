"""Web pages: the browser of slices, the index of all results, and the templates that they share."""
