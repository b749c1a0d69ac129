"""What happened since the artefact was made: a log that loses no event, and what it says of a shopper right now. Knows no pipelines and no HTTP."""
