"""How networks learn: Lightning modules."""
