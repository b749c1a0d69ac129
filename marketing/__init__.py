"""Decisions about people: tables and numbers in, decisions out. Knows no torch, no HTTP, no Airflow, no stages."""
