"""archc: from a model specification to a PyTorch package with specialised Triton kernels."""

__version__ = "0.1.0"
