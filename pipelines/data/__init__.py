"""From a source's rows to prepared histories: tables, sources, checks, cleaning, the split, features."""
