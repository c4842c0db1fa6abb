"""Tables: the numbers of each, and the same as HTML, Markdown and LaTeX."""
