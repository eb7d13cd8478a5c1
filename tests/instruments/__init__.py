"""What kernels and decoding steps do, counted: launches, bytes and operations, against what they need."""
