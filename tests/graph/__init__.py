"""Tests of the graph fuser."""
