"""Is what privacy promises so? See __main__."""
