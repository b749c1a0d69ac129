"""Models that order the candidates that a retriever proposes, by what is known of shopper, candidate and context."""
