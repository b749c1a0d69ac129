"""Airflow and the server on this machine: started together, stopped together."""
