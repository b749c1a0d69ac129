"""Networks, losses, metrics and batches of tensors. Knows no file, no stage and no Airflow."""
