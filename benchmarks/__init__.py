"""What `make bench` and `make bench-gpu` run: this project beside what a researcher would otherwise use."""
