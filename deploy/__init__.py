"""Serving and promotion. Knows only the exported artefact; imports no torch and no training code."""
