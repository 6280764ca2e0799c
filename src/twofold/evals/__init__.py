"""Evaluations: what each measures stands at the top of its module."""
