"""Models that score every item: next-item networks, item-to-item models, popularity, and the transition prior."""
