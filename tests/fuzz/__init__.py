"""Damaged files of every kind that vit_jax reads; see `harness`."""
