"""Blocks that models are made of: attention, encoder block, patch embedding, pooling, positions, resizing."""
