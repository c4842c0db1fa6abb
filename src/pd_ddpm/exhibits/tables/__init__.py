"""Tables: each module computes the numbers of one table and lays them out for reading."""
