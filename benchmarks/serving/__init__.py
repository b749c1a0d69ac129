"""How close to the limit of the machine is serving? See benchmarks/serving/__main__.py."""
