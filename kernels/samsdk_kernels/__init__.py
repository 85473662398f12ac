"""GPU kernels, each beside its slow reference; nothing here is needed to run a bundle on a CPU."""
