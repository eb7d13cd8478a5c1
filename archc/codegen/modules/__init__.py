"""Graphs -> plans of classes: what a generated module says, statement by statement."""
