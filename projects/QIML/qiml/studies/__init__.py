"""Experiments that compare configs over seeds: a grid of runs, its statistics and its page of results."""
