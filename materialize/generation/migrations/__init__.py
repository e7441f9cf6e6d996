"""Alembic migrations of the catalogue, as package data."""
