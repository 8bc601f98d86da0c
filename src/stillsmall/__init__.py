"""Distil a large speech recogniser into a small, fast student."""
