"""Benchmarks of `make bench` and `make bench-gpu`: this project compared with other libraries."""
