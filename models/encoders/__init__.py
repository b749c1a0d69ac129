"""Embedded histories to a vector after each event, and the table of what is known of items. Knows nothing of how a graph is served."""
