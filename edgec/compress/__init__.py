"""Fewer or cheaper numbers: a graph as a torch module that trains, and what makes it smaller."""
