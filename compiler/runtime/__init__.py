"""Executables: building, storing and loading kernels; the call plan of a graph and its buffers."""
