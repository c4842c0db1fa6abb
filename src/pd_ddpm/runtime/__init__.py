"""What every job needs: files, logging, devices, memory, processes, provenance. Imports nothing else of the package."""
