"""The wall: the only package that imports Dagster. What is computed stands in the rooms before it."""
