"""Text -> syntax tree -> resolved model -> graph."""
