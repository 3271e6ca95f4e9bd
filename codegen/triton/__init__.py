"""The Triton target: kernels as readable `@triton.jit` functions for GPUs. Imports neither torch nor triton."""
