"""GPUs: kernels compiled for them on any machine, what these take of a GPU, and how they are launched."""
