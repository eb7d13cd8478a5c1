"""`archc tune`: measures kernels on the GPU at hand, and which of a table's measurements a model uses."""
