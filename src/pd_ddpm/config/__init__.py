"""The configuration: its schema, its resolution into networks and methods, and its checks."""
