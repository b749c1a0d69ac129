"""Who the shoppers are: what is known of each in a row of numbers and words, and named groups of them."""
