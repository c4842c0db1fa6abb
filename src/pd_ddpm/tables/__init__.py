"""The exhibits that are tables: the numbers of each, and the same as a page, as Markdown and as LaTeX."""
