"""Figures from the numbers they show: a module each, with a function that makes the table and one that draws all of it."""
