"""The stages of dvc.yaml, one module each: files in, files out. Knows models/; nothing of Airflow, nothing of serving."""
