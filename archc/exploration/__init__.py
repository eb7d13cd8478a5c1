"""Which model to build: scaling laws, designs, searches over shapes."""
