"""Costs of networks: counted by part, measured, as tables, CSV and figure."""
