"""Answers to customers: the shop's own texts and tables in, a quoted answer or a person out. NumPy and the standard library; no torch, no HTTP server."""
