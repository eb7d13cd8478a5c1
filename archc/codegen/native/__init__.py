"""Plans of C++ for a CPU."""
