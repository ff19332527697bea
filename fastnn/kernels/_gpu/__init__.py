"""The GPU's engine room: what its kernels are launched by, and what they share."""
