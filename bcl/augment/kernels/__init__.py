"""The same ops as Triton kernels, for CUDA devices."""
