"""What Airflow sees. Reads dvc.yaml and params.yaml; imports no machine-learning library when parsed."""
