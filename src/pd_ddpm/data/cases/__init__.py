"""Tables of cases from the folder layouts that the pipeline reads."""
