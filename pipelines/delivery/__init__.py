"""A plan's messages on their way: what the DAG `campaign` and `pushcart campaign` run. No stage: a send cannot be restored."""
