"""Templates, styles and scripts of the web pages."""
